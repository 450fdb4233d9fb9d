//go:build !unix

package libpq

// peeks says whether peek sees anything.
const peeks = false

// peek cannot look here, so a socket counts as open.
func peek(uintptr) error { return nil }
