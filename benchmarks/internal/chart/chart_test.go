package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
)

// elements parses a picture strictly and counts its elements by name; numbers in coordinates must be finite.
func elements(t *testing.T, write func(io.Writer) error) (counts map[string]int, text string) {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	counts = map[string]int{}
	d := xml.NewDecoder(&b)
	var all strings.Builder
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			counts[token.Name.Local]++
			for _, a := range token.Attr {
				switch a.Name.Local {
				case "x", "y", "x1", "y1", "x2", "y2", "width", "height":
					if v, err := strconv.ParseFloat(a.Value, 64); err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
						t.Errorf("<%s %s=%q> is no number", token.Name.Local, a.Name.Local, a.Value)
					}
				case "d":
					if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
						t.Errorf("path %q", a.Value)
					}
				}
			}
		case xml.CharData:
			all.Write(token)
		}
	}
	return counts, all.String()
}

// awkward is text that is not well-formed unless it is escaped.
const awkward = `a<b & "c" ]]>`

func TestLines(t *testing.T) {
	chart := &Lines{
		Title: awkward, Description: awkward,
		X:    Axis{Name: awkward, Ticks: []Tick{{1, "1"}, {10, awkward}, {100, "100"}}, Scale: math.Log10},
		Y:    Axis{Name: "s", Ticks: Even(3.2, func(v float64) string { return fmt.Sprint(v) })},
		Mark: 2, MarkName: "the mark",
		Lines: []Line{
			{Name: awkward, Tone: Subject, Points: []Point{{1, 1}, {10, math.NaN()}, {100, 3}}},
			{Name: "b", Tone: Baseline, Points: []Point{{1, 1}, {100, 3}}},
			{Name: "group", Tone: Other, Points: []Point{{1, 2}, {100, 3}}},
			{Name: "group", Tone: Other, Points: []Point{{1, 2}, {100, math.Inf(1)}}},
			{Name: "nothing known", Tone: Peer},
		},
	}
	counts, text := elements(t, chart.WriteSVG)
	if counts["path"] != 4 {
		t.Errorf("%d lines, want 4", counts["path"])
	}
	for want, times := range map[string]int{awkward: 6, "group": 1, "the mark": 1, "nothing known": 0} {
		if n := strings.Count(text, want); n != times {
			t.Errorf("%q is there %d times, want %d", want, n, times)
		}
	}
	if !strings.Contains(text, "prefers-color-scheme:dark") {
		t.Error("no colours for dark pages")
	}
}

func TestLinesWithoutAxes(t *testing.T) {
	if err := (&Lines{}).WriteSVG(io.Discard); err == nil {
		t.Error("no error")
	}
}

// Names that would lie on each other are pushed apart, and stay inside the picture.
func TestNamesDoNotOverlap(t *testing.T) {
	chart := &Lines{
		X: Axis{Ticks: []Tick{{0, "0"}, {1, "1"}}},
		Y: Axis{Ticks: []Tick{{0, "0"}, {1, "1"}}},
	}
	for i := range 6 {
		chart.Lines = append(chart.Lines, Line{Name: fmt.Sprint("line ", i), Tone: Peer, Points: []Point{{0, 0}, {1, 0.01 * float64(i)}}})
	}
	var b bytes.Buffer
	if err := chart.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	type text struct {
		Y    float64 `xml:"y,attr"`
		Body string  `xml:",chardata"`
	}
	var svg struct {
		Height float64 `xml:"height,attr"`
		Texts  []text  `xml:"text"`
	}
	if err := xml.Unmarshal(b.Bytes(), &svg); err != nil {
		t.Fatal(err)
	}
	var ys []float64
	for _, e := range svg.Texts {
		if strings.HasPrefix(e.Body, "line ") {
			ys = append(ys, e.Y)
		}
	}
	if len(ys) != 6 {
		t.Fatalf("%d names, want 6", len(ys))
	}
	for i, y := range ys {
		if i > 0 && y-ys[i-1] < 16 {
			t.Errorf("names at %v and %v overlap", ys[i-1], y)
		}
		if y < 0 || y > svg.Height {
			t.Errorf("name at %v is outside of the picture", y)
		}
	}
}

func TestBars(t *testing.T) {
	chart := &Bars{
		Title: awkward,
		Name:  func(v float64) string { return fmt.Sprintf("%g<", v) },
		Groups: []Group{
			{Name: awkward, Bars: []Bar{
				{Name: awkward, Tone: Subject, Value: 2, Lowest: 1, Top: 3},
				{Name: "none", Tone: Peer, Value: math.NaN()},
				{Name: "one round", Tone: Baseline, Value: 1, Lowest: math.NaN(), Top: math.NaN()},
			}},
			{Bars: []Bar{{Name: "zero", Tone: Other}}},
		},
	}
	counts, text := elements(t, chart.WriteSVG)
	if counts["rect"] != 4 { // three bars and the background
		t.Errorf("%d rectangles, want 4", counts["rect"])
	}
	if !strings.Contains(text, "2<") || !strings.Contains(text, "—") {
		t.Errorf("values are missing in %q", text)
	}
	if err := (&Bars{}).WriteSVG(io.Discard); err == nil {
		t.Error("no error for a chart of nothing")
	}
}

func TestEven(t *testing.T) {
	for _, highest := range []float64{0.0032, 0.9, 1, 6, 6.0001, 59, 253, 1e6, 0, -1, math.NaN(), math.Inf(1)} {
		ticks := Even(highest, func(v float64) string { return fmt.Sprint(v) })
		last := ticks[len(ticks)-1].At
		if ticks[0].At != 0 || len(ticks) < 2 || len(ticks) > 8 {
			t.Errorf("Even(%v) = %v", highest, ticks)
		}
		if highest > 0 && !math.IsInf(highest, 0) && (last < highest*(1-1e-6) || last > 2*highest) {
			t.Errorf("Even(%v) ends at %v", highest, last)
		}
	}
}
