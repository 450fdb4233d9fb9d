//go:build (amd64 || arm64) && gc && !purego

package callsite

// walk follows the frame pointers of the calling goroutine from its caller outward. It writes the return addresses to the
// array that begins at pcs and has room for most, one for each frame of the machine: calls that were inlined have none.
//
//go:noescape
func walk(pcs *uintptr, most int) (n int, hash uint64)

const frames = true
