package lifeguard

// StackCapture takes stacks as checkouts do, without a limit to their number.
type StackCapture struct {
	capture stackCapture
	stack   stack
	now     int64
}

func NewStackCapture() *StackCapture {
	c := &StackCapture{}
	c.capture.depth.Store(usualDepth)
	return c
}

// Take takes one, and returns its depth.
func (c *StackCapture) Take() int {
	c.now += 1 << captureTick // to the next tick
	c.stack.capture(&c.capture, c.now, 1)
	return c.stack.n
}

// WithoutStacks has the pool take no stacks of checkouts, as if there had always been too many.
func WithoutStacks(p *Pool) { p.capture.depth.Store(0) }
