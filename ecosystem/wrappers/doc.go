// Package wrappers tests lifeguard together with libraries that wrap a database/sql driver: over lifeguard, and under it.
// It has no code but tests, in a module of its own so that the library does not depend on them.
package wrappers
