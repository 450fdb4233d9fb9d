// Package pooltest has what the black-box tests of several packages share: openers of pools over a driver in memory and
// over PostgreSQL, scripts that are compared with the plain driver, and readers of logs and metrics.
//
// It knows lifeguard by its public API alone. Tests that use it are external ones (package pool_test, not pool), because
// it imports the root package. It asserts only what holds at the end of every test: nothing is left open.
package pooltest
