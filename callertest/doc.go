// Package callertest tests that lifeguard names the application's code, and not the library in between, where an
// application works through a data-access library. It is a module of its own, so that these libraries are not among
// the dependencies of lifeguard.
package callertest
