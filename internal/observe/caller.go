package observe

import (
	"maps"
	"math/bits"
	"runtime"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
)

// Caller is the application's code that ran an operation.
type Caller struct {
	shape      *shape // of the operation
	frame      runtime.Frame
	found      bool                 // the frame is the application's
	conn       bool                 // the stack goes through sql.DB.Conn
	stack      []uintptr            // its inner part, by which the caller is recognised
	attributes []attribute.KeyValue // of the frame
}

// here finds the caller that runs the present goroutine.
func (m *memory) here(s *shape) *Caller {
	var stack [callsite.Depth]uintptr
	// Known callers are recognised by the inner part of their stacks. To capture the rest, a tenth of a microsecond for
	// each call, would take longer than all else.
	known := s.callers.Load()
	if c := known.find(callsite.Callers(stack[:known.depth()])); c != nil {
		return c
	}
	// A copy, so that the array is not on the heap each time.
	return m.newCaller(s, slices.Clone(callsite.Callers(stack[:])))
}

// caller finds the caller of an operation that has ended.
//
// The rows of a query may be closed elsewhere. If its caller was not noted, and the checkout was for the query, the code
// that took the connection tells more. database/sql ends operations on a goroutine of its own when a context is over.
// There, the code that took the connection or began the transaction has to do.
func (m *memory) caller(s *shape, op *Operation) *Caller {
	if op.Caller != nil && op.Caller.found {
		return op.Caller
	}
	var checkout *Caller
	if len(op.Stack) > 0 {
		checkout = m.callerOf(s, op.Stack)
		if op.Kind == Query && op.First && checkout.found && !checkout.conn {
			return checkout
		}
	}
	here := m.here(s)
	switch {
	case here.found:
		return here
	case checkout != nil && checkout.found:
		return checkout
	case op.Begun != nil && op.Begun.found:
		return op.Begun
	case checkout != nil:
		return checkout // where it was started
	}
	return here
}

// callerOf returns the caller with this stack.
func (m *memory) callerOf(s *shape, stack []uintptr) *Caller {
	if c := s.callers.Load().find(stack); c != nil {
		return c
	}
	return m.newCaller(s, stack)
}

// newCaller looks at a stack that is not known, and keeps no part of it.
func (m *memory) newCaller(s *shape, stack []uintptr) *Caller {
	c := &Caller{shape: s}
	var n int
	c.frame, n, c.found = callsite.Innermost(stack, m.skip)
	if c.frame.Function != "" {
		c.attributes = codeAttributes(c.frame)
	}
	// The application's frame may be on the part of a stack that was cut off. So only callers that were found are
	// remembered.
	if c.found {
		c.stack = slices.Clone(stack[:n])
		c.conn = callsite.Through(c.stack, "database/sql.(*DB).Conn")
		s.remember(c)
	}
	return c
}

func codeAttributes(f runtime.Frame) []attribute.KeyValue {
	all := []attribute.KeyValue{semconv.CodeFunctionName(f.Function)}
	if f.File != "" { // else the frame is made up
		all = append(all, semconv.CodeFilePath(f.File), semconv.CodeLineNumber(f.Line))
	}
	return all
}

// maxCallers is how many callers of a query are remembered. To look at a stack anew takes some microseconds.
const maxCallers = 256

// callers are those of one query, up to a limit. They are copied at each change.
//
// A caller is recognised by its stack up to the application's frame, however it was called itself. Else a function that
// is called from everywhere would be a new caller each time.
type callers struct {
	lengths uint64             // bit n: one of them is recognised by n entries of its stack
	byHash  map[uint64]*Caller // hash of those entries
}

// find returns the caller whose stack begins like this one, or nil.
func (known *callers) find(stack []uintptr) *Caller {
	if known == nil {
		return nil
	}
	hash := uint64(0)
	for i, pc := range stack {
		hash = hashOn(hash, pc)
		if known.lengths>>(i+1)&1 == 0 {
			continue
		}
		if c := known.byHash[hash]; c != nil && slices.Equal(c.stack, stack[:i+1]) {
			return c
		}
	}
	return nil
}

// depth is how much of a stack find looks at.
func (known *callers) depth() int {
	if known == nil {
		return 0
	}
	return bits.Len64(known.lengths) - 1
}

func hashOn(hash uint64, pc uintptr) uint64 {
	return bits.RotateLeft64(hash^uint64(pc), 25) * 0x9e3779b97f4a7c15
}

// remember adds a caller. If another is added at the same moment, this one is remembered the next time.
func (s *shape) remember(c *Caller) {
	known, next := s.callers.Load(), &callers{byHash: map[uint64]*Caller{}}
	if known != nil {
		maps.Copy(next.byHash, known.byHash)
	}
	if len(next.byHash) >= maxCallers {
		// Any of them: were it always the oldest, one more caller than there is room for could push out all in turn.
		for other := range next.byHash {
			delete(next.byHash, other)
			break
		}
	}
	hash := uint64(0)
	for _, pc := range c.stack {
		hash = hashOn(hash, pc)
	}
	next.byHash[hash] = c
	for _, c := range next.byHash {
		next.lengths |= 1 << len(c.stack)
	}
	s.callers.CompareAndSwap(known, next)
}
