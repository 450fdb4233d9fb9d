package chart

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Lines is a line chart.
type Lines struct {
	Title, Description string
	X, Y               Axis
	Lines              []Line
	// Mark draws a dashed line at this height, with a word beside it; none if the word is "".
	Mark     float64
	MarkName string
}

// An Axis has its ticks named by the caller. What is drawn reaches from the first to the last.
type Axis struct {
	Name  string
	Ticks []Tick
	// Scale maps values to positions; nil is linear.
	Scale func(float64) float64
}

// A Tick is a place on an axis.
type Tick struct {
	At   float64
	Name string
}

// A Line is what is known of a candidate.
type Line struct {
	Name   string
	Tone   Tone
	Points []Point
}

// A Point of a line. Points that are not finite numbers are left out.
type Point struct{ X, Y float64 }

func (a Axis) position(v float64) float64 {
	scale := a.Scale
	if scale == nil {
		scale = func(v float64) float64 { return v }
	}
	low, high := scale(a.Ticks[0].At), scale(a.Ticks[len(a.Ticks)-1].At)
	return (scale(v) - low) / (high - low)
}

// Even makes the ticks of a linear axis from 0 to at least highest, in steps of 1, 2 or 5 times a power of ten.
func Even(highest float64, name func(float64) string) []Tick {
	if highest <= 0 || math.IsNaN(highest) || math.IsInf(highest, 0) {
		highest = 1
	}
	const steps = 6
	step := math.Pow(10, math.Floor(math.Log10(highest/steps)))
	for _, f := range []float64{1, 2, 5, 10} {
		if step*f*steps >= highest {
			step *= f
			break
		}
	}
	var ticks []Tick
	for i := 0; ; i++ {
		at := float64(i) * step
		ticks = append(ticks, Tick{at, name(at)})
		if at >= highest*(1-1e-9) {
			return ticks
		}
	}
}

// WriteSVG draws the chart.
func (l *Lines) WriteSVG(w io.Writer) error {
	const plotWidth, plotHeight = width - left - right, 280
	if len(l.X.Ticks) < 2 || len(l.Y.Ticks) < 2 {
		return errors.New("chart: an axis needs two ticks")
	}
	c := &canvas{height: top + plotHeight + bottom}
	x := func(v float64) float64 { return left + plotWidth*l.X.position(v) }
	y := func(v float64) float64 { return top + plotHeight*(1-l.Y.position(v)) }

	c.text(16, 26, "title", "start", l.Title)
	for _, t := range l.Y.Ticks {
		c.straight(left, y(t.At), left+plotWidth, y(t.At), "grid")
		c.text(left-8, y(t.At)+4, "small", "end", t.Name)
	}
	for _, t := range l.X.Ticks {
		c.straight(x(t.At), top, x(t.At), top+plotHeight, "grid")
		c.text(x(t.At), top+plotHeight+18, "small", "middle", t.Name)
	}
	c.text(left-8, top-12, "small", "start", l.Y.Name)
	c.text(left+plotWidth/2, top+plotHeight+40, "small", "middle", l.X.Name)
	if l.MarkName != "" {
		c.straight(left, y(l.Mark), left+plotWidth, y(l.Mark), "mark")
	}

	lines := l.drawn(y)
	// The most important lines are drawn last, above the others.
	for _, d := range slices.Backward(slices.SortedStableFunc(slices.Values(lines), func(a, b drawn) int {
		return int(a.Tone) - int(b.Tone)
	})) {
		c.path(d, x, y)
	}
	var mark []name
	if l.MarkName != "" {
		mark = []name{{l.MarkName, "small", y(l.Mark) + 4}}
	}
	c.names(lines, mark, top+plotHeight+4, left+plotWidth+10)
	return c.finish(w, l.Title, l.Description)
}

// drawn is a line with what can be drawn of it.
type drawn struct {
	Line
	class string
	end   float64
}

func (l *Lines) drawn(y func(float64) float64) (lines []drawn) {
	for _, line := range l.Lines {
		d := drawn{Line: line, class: line.Tone.class()}
		d.Points = slices.DeleteFunc(slices.Clone(line.Points), func(p Point) bool {
			return math.IsNaN(p.X+p.Y) || math.IsInf(p.X+p.Y, 0)
		})
		if len(d.Points) > 0 {
			d.end = y(d.Points[len(d.Points)-1].Y)
			lines = append(lines, d)
		}
	}
	return lines
}

func (c *canvas) path(d drawn, x, y func(float64) float64) {
	var path strings.Builder
	for i, p := range d.Points {
		verb := 'L'
		if i == 0 {
			verb = 'M'
		}
		fmt.Fprintf(&path, "%c%.1f %.1f", verb, x(p.X), y(p.Y))
	}
	fmt.Fprintf(c, `<path class="line %s" d="%s"/>`+"\n", d.class, path.String())
}

// name is a word beside the end of a line.
type name struct {
	text, class string
	y           float64
}

// names writes the names where their lines end, pushed apart where they would overlap, and above lowest. Those of a group
// are named once.
func (c *canvas) names(lines []drawn, names []name, lowest, x float64) {
	for _, d := range lines {
		if d.Tone == Other && slices.ContainsFunc(names, func(n name) bool { return n.text == d.Name }) {
			continue
		}
		names = append(names, name{d.Name, "f-" + d.class, d.end + 4})
	}
	slices.SortFunc(names, func(a, b name) int { return int(math.Copysign(1, a.y-b.y)) })
	const lineHeight = 17
	for i := range names {
		if i > 0 {
			names[i].y = max(names[i].y, names[i-1].y+lineHeight)
		}
	}
	if n := len(names); n > 0 {
		over := max(0, names[n-1].y-(lowest))
		for i := n - 1; i >= 0 && over > 0; i-- {
			names[i].y -= over
			if i > 0 {
				over = max(0, names[i-1].y+lineHeight-names[i].y)
			}
		}
	}
	for _, n := range names {
		c.text(x, n.y, n.class, "start", n.text)
	}
}
