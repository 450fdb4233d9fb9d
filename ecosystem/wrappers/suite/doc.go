// Package suite tests lifeguard together with a library that wraps a database/sql driver: over lifeguard, and under it. It
// has no code but tests, and knows none of the libraries, so that the heavy ones can have a module of their own.
package suite
