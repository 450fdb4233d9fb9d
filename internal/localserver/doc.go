// Package localserver runs server programs for tests: each in a temporary folder of its own, under an account that the
// program accepts, on a free port of the loopback interface, and never longer than the test process lives.
//
// It knows no particular server; pgtest, mariatest and bouncertest say what to run and when it is ready.
// It starts no goroutines, so that tests which look for leaked ones need no exceptions for it.
package localserver
