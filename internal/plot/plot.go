package plot

import (
	"fmt"
	"strings"
)

// Series are values, each of which holds for one unit of time.
type Series []float64

// Highest is the largest value, at least 0.
func (s Series) Highest() (top float64) {
	for _, v := range s {
		top = max(top, v)
	}
	return top
}

// Sum is that of all values.
func (s Series) Sum() (all float64) {
	for _, v := range s {
		all += v
	}
	return all
}

// Line is a series with its look.
type Line struct {
	Class  string
	Values Series
	Area   bool // with a path below it, whose class ends in "-area"
}

// Paths draws lines to one scale: top is the value at the upper edge. A series that is shorter than the width ends at the right.
func Paths(width, height int, top float64, lines ...Line) string {
	var b strings.Builder
	for _, l := range lines {
		if top == 0 {
			continue // a line on the axis says nothing
		}
		first := width - len(l.Values)
		if l.Area && len(l.Values) > 0 {
			fmt.Fprintf(&b, `<path class="%s-area" d="M%d %d`, l.Class, first, height)
			l.Values.draw(&b, "L", width, height, top)
			fmt.Fprintf(&b, `L%d %dZ"/>`, width, height)
		}
		fmt.Fprintf(&b, `<path class="%s" d="`, l.Class)
		l.Values.draw(&b, "M", width, height, top)
		b.WriteString(`"/>`)
	}
	return b.String()
}

// draw writes the steps. A value that stays is one step.
func (s Series) draw(b *strings.Builder, move string, width, height int, top float64) {
	last, first := -1.0, width-len(s)
	for i, v := range s {
		y := float64(height) - min(v/top, 1)*float64(height-2)
		if y == last {
			continue
		}
		if i == 0 {
			fmt.Fprintf(b, "%s%d %.4g", move, first, y)
		} else {
			fmt.Fprintf(b, "H%dV%.4g", first+i, y)
		}
		last = y
	}
	if len(s) > 0 {
		fmt.Fprintf(b, "H%d", width)
	}
}
