//go:build !unix

package libpq

// peek cannot look here, so a socket counts as open.
func peek(uintptr) error { return nil }
