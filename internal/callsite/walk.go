//go:build (amd64 || arm64) && gc

package callsite

// walk follows the frame pointers of the calling goroutine from its caller outward. It writes the return addresses to
// pcs, one for each frame of the machine: calls that were inlined have none.
//
//go:noescape
func walk(pcs *[Depth]uintptr) (n int, hash uint64)

const frames = true
