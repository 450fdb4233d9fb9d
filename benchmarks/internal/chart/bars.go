package chart

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// Bars is a chart of horizontal bars in groups.
type Bars struct {
	Title, Description string
	// Note is shown under the title: what the length of a bar is, and which is good.
	Note   string
	Groups []Group
	// Name writes a value beside its bar.
	Name func(float64) string
}

// A Group is a heading with bars that share a scale.
type Group struct {
	Name string
	Bars []Bar
}

// A Bar is a candidate's value, with the smallest and largest of the rounds. A value that is not a finite number is
// shown as a dash.
type Bar struct {
	Name        string
	Tone        Tone
	Value       float64
	Lowest, Top float64
}

// WriteSVG draws the chart.
func (b *Bars) WriteSVG(w io.Writer) error {
	const (
		names     = 170 // room for the names at the left
		values    = 110 // and for the values at the right
		plotWidth = width - names - values
		barHeight = 15
		step      = 21
		heading   = 34
	)
	if len(b.Groups) == 0 {
		return errors.New("chart: no groups")
	}
	c := &canvas{}
	c.text(16, 26, "title", "start", b.Title)
	y := 40.0
	if b.Note != "" {
		c.text(16, y+6, "small", "start", b.Note)
		y += 16
	}
	for _, g := range b.Groups {
		highest := 0.0
		for _, bar := range g.Bars {
			if finite(bar.Value) {
				highest = max(highest, bar.Value)
			}
			if finite(bar.Top) {
				highest = max(highest, bar.Top)
			}
		}
		if highest == 0 {
			highest = 1
		}
		if g.Name != "" {
			c.text(16, y+22, "small", "start", g.Name)
			y += heading
		}
		for _, bar := range g.Bars {
			class := bar.Tone.class()
			middle := y + barHeight/2.0
			c.text(names-8, middle+4.5, "f-"+class, "end", bar.Name)
			if !finite(bar.Value) {
				c.text(names+4, middle+4.5, "small", "start", "—")
				y += step
				continue
			}
			length := plotWidth * bar.Value / highest
			fmt.Fprintf(c, `<rect class="f-%s" x="%d" y="%.1f" width="%.1f" height="%d" rx="2"/>`+"\n",
				class, names, y, length, barHeight)
			end := length
			if finite(bar.Lowest) && finite(bar.Top) && bar.Top > bar.Lowest {
				low, high := plotWidth*bar.Lowest/highest, plotWidth*bar.Top/highest
				c.straight(names+low, middle, names+high, middle, "whisker")
				c.straight(names+low, middle-3, names+low, middle+3, "whisker")
				c.straight(names+high, middle-3, names+high, middle+3, "whisker")
				end = max(end, high)
			}
			c.text(names+end+6, middle+4.5, "small", "start", b.Name(bar.Value))
			y += step
		}
		y += 8
	}
	c.height = int(y) + 12
	return c.finish(w, b.Title, b.Description)
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
