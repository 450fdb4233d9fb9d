// Package wrappers runs the suite for the libraries that wrap a database/sql driver. It has no code but tests, in a module of
// its own so that lifeguard does not depend on them. DataDog's has a module beside it, because it brings 180 packages.
package wrappers
