//go:build (amd64 || arm64) && gc && !purego

package callsite

// walk follows the frame pointers of the calling goroutine from its caller outward. It writes the return addresses to the
// array that begins at pcs and has room for most, one for each frame of the machine: calls that were inlined have none.
//
//go:noescape
func walk(pcs *uintptr, most int) (n int, hash uint64)

// outward gives two of the addresses that walk writes, the one before the n-th and the n-th, counted from 0; 0 and 0 if the
// stack has not so many.
func outward(n int) (pc, next uintptr)

const frames = true
