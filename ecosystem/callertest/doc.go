// Package callertest tests that lifeguard names the application's code, and not the library in between, where an
// application works through a data-access library. It has no code but tests.
package callertest
