package lifeguard

import (
	"maps"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// caller is who in the application ran the operation, which is found out once. A query's rows may be closed elsewhere:
// if it was not noted who ran it, and it is what its checkout was for, the one that took the connection is more telling.
// Where database/sql ended the operation in a goroutine of its own, because a context was over, the one that began the
// transaction or took the connection has to do.
func (o *observer) caller(e *ending) *caller {
	if e.caller != nil && e.caller.found {
		return e.caller
	}
	if e.kind == opQuery && e.first && len(e.checkout) > 0 {
		if c := o.callerOf(e.shape, e.checkout); c.found && !c.conn {
			e.caller = c
			return c
		}
	}
	c := o.here(e.shape)
	if !c.found && len(e.checkout) > 0 {
		c = o.callerOf(e.shape, e.checkout)
	}
	if !c.found && e.begun != nil {
		c = e.begun
	}
	e.caller = c
	return c
}

// caller is what was found out about a stack.
type caller struct {
	shape      *shape    // of what was called
	stack      []uintptr // its inner part by which it is recognised
	frame      runtime.Frame
	found      bool                 // the frame is the application's
	conn       bool                 // sql.DB.Conn is on the stack
	attributes []attribute.KeyValue // of the frame

	details [rememberedRows]atomic.Pointer[details] // of ordinary operations, by the number of rows
}

func (s *shape) newCaller(frame runtime.Frame, found bool) *caller {
	c := &caller{shape: s, frame: frame, found: found}
	if found {
		c.attributes = []attribute.KeyValue{semconv.CodeFunctionName(frame.Function), semconv.CodeFilePath(frame.File),
			semconv.CodeLineNumber(frame.Line)}
	}
	return c
}

const (
	// maxCallers is how many callers of a query are remembered. Looking at a stack anew costs some microseconds.
	maxCallers = 256

	// maxChain is how deep a stack is looked at to recognise it, with all of an object-relational mapper on it.
	maxChain = 63
)

// callers are those of one query, up to a limit. They are copied at each change.
type callers struct {
	lengths uint64             // bit n: one of them is recognised by n entries of its stack
	byHash  map[uint64]*caller // hash of that part of the stack
}

// find looks for the caller whose stack begins like this one.
func (known *callers) find(stack []uintptr) *caller {
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

func hashOn(hash uint64, pc uintptr) uint64 {
	return bits.RotateLeft64(hash^uint64(pc), 25) * 0x9e3779b97f4a7c15
}

// depth is how much of a stack find needs.
func (known *callers) depth() int {
	if known == nil {
		return maxChain
	}
	return bits.Len64(known.lengths) - 1
}

// remember adds a caller, which is recognised by this stack or one that begins like it.
func (s *shape) remember(c *caller, stack []uintptr) {
	c.stack = slices.Clone(stack)
	hash := uint64(0)
	for _, pc := range stack {
		hash = hashOn(hash, pc)
	}
	known, next := s.callers.Load(), &callers{byHash: map[uint64]*caller{}}
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
	next.byHash[hash] = c
	for _, c := range next.byHash {
		next.lengths |= 1 << len(c.stack)
	}
	// If another was faster, this one is remembered the next time.
	s.callers.CompareAndSwap(known, next)
}

// here is who in the application runs the present goroutine.
func (o *observer) here(s *shape) *caller {
	known := s.callers.Load()
	var chain [maxChain]uintptr
	for depth := known.depth(); ; depth = maxChain {
		// In one place, because where it is called from is in the chain.
		n := callsite.Chain(chain[:depth])
		if c := known.find(chain[:n]); c != nil {
			return c
		}
		if depth == maxChain {
			return o.newHere(s, chain[:n])
		}
	}
}

// newHere is here for a chain that was not seen before.
func (o *observer) newHere(s *shape, chain []uintptr) *caller {
	var stack [2 * maxChain]uintptr
	n := callsite.Capture(0, stack[:])
	frame, n, found := callsite.Application(stack[:n], o.skip)
	c := s.newCaller(frame, found)
	// What is not found on a part of a stack may be on the rest of it.
	if reach := callsite.Reach(chain, stack[:n]); reach > 0 && (found || reach == len(chain) && reach < maxChain) {
		s.remember(c, chain[:reach])
	}
	return c
}

// callerOf is who in the application made a checkout with this stack.
func (o *observer) callerOf(s *shape, stack []uintptr) *caller {
	if c := s.callers.Load().find(stack); c != nil {
		return c
	}
	frame, n, found := callsite.Application(stack, o.skip)
	c := s.newCaller(frame, found)
	_, c.conn = frameOf(stack[:n], connFunction)
	if found { // else it may be on the rest of the stack
		s.remember(c, stack[:n])
	}
	return c
}

// connFunction is what takes a connection for more than one operation.
const connFunction = "database/sql.(*DB).Conn"

// frameOf finds a function on the stack.
func frameOf(stack []uintptr, function string) (_ runtime.Frame, found bool) {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if f.Function == function {
			return f, true
		}
		if !more {
			return runtime.Frame{}, false
		}
	}
}
