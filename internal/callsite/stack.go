package callsite

import "runtime"

// Depth is how many calls of a stack are captured. The innermost come first; those further out are not seen.
const Depth = 64

// Stack is room for one captured stack. To capture again allocates nothing. It is not safe for concurrent use.
type Stack struct {
	n   int
	pcs [Depth]uintptr
}

// Capture replaces the stack by that of the calling goroutine. With skip 0 the caller of Capture comes first.
func (s *Stack) Capture(skip int) {
	// runtime.Callers counts itself and Capture.
	s.n = runtime.Callers(skip+2, s.pcs[:])
}

// Clear makes the stack empty, which stands for one that was not captured.
func (s *Stack) Clear() { s.n = 0 }

// PCs returns the program counters, innermost first. They share the room of s, so the next Capture changes them.
func (s *Stack) PCs() []uintptr { return s.pcs[:s.n] }

// Empty says whether there is no stack.
func (s *Stack) Empty() bool { return s.n == 0 }

// Callers captures as much of the stack of the calling goroutine as there is room for. The caller of its caller comes
// first.
func Callers(room []uintptr) []uintptr { return room[:runtime.Callers(3, room)] }
