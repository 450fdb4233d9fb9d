// Package chart draws the pictures of the comparison as SVG. They follow the colour scheme of the reader's system and
// bring their own background, so that they can be read on any page.
package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// A Tone is how a candidate is drawn.
type Tone int

// The tones, the most important ones first. All rows and lines of a tone look alike.
const (
	Subject  Tone = iota // what the comparison is about
	Baseline             // what it is compared to
	Peer                 // another one worth telling apart
	Sibling              // the subject with other settings
	Relative             // the peer in another shape
	Other                // the rest, as a group
)

// Frame, in units of the picture: the room around the drawing area.
const (
	width  = 760
	left   = 64
	right  = 150
	top    = 56
	bottom = 52
)

const style = `
.bg{fill:#ffffff}
text{fill:#1f2328;font:13px -apple-system,BlinkMacSystemFont,"Segoe UI",Helvetica,Arial,sans-serif}
.title{font-size:15px;font-weight:600}
.small{font-size:12px;fill:#59636e}
.grid{stroke:#d1d9e0;stroke-width:1}
.mark{stroke:#59636e;stroke-width:1;stroke-dasharray:2 3}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.subject{stroke:#1a7f37}.baseline{stroke:#bc4c00}.peer{stroke:#0969da}.sibling{stroke:#4c9f63}.relative{stroke:#8250df}.other{stroke:#afb8c1;stroke-width:1.2}
.line.subject{stroke-width:3}
.f-subject{fill:#1a7f37}.f-baseline{fill:#bc4c00}.f-peer{fill:#0969da}.f-sibling{fill:#3d8c52}.f-relative{fill:#8250df}.f-other{fill:#59636e}
rect.f-other{fill:#c4ccd4}rect.f-sibling{fill:#8fcfa0}
.whisker{stroke:#1f2328;stroke-width:1.2}
@media (prefers-color-scheme:dark){
.bg{fill:#0d1117}
text{fill:#e6edf3}
.small{fill:#9198a1}
.grid{stroke:#30363d}
.mark{stroke:#9198a1}
.subject{stroke:#3fb950}.baseline{stroke:#f0883e}.peer{stroke:#58a6ff}.sibling{stroke:#2f7d3d}.relative{stroke:#bc8cff}.other{stroke:#484f58}
.f-subject{fill:#3fb950}.f-baseline{fill:#f0883e}.f-peer{fill:#58a6ff}.f-sibling{fill:#56b366}.f-relative{fill:#bc8cff}.f-other{fill:#9198a1}
rect.f-other{fill:#484f58}rect.f-sibling{fill:#23652f}
.whisker{stroke:#e6edf3}
}
`

// canvas collects the elements of a picture.
type canvas struct {
	bytes.Buffer
	height int
}

// escape makes text safe inside an element or attribute.
func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a strings.Builder does not fail
	return b.String()
}

func (c *canvas) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, escape(text))
}

func (c *canvas) straight(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n", x1, y1, x2, y2, class)
}

// finish writes the picture. The description is for those who cannot see it.
func (c *canvas) finish(w io.Writer, title, description string) error {
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">
<title>%s</title>
<desc>%s</desc>
<style>%s</style>
<rect class="bg" width="%d" height="%d" rx="6"/>
%s</svg>
`, width, c.height, width, c.height, escape(title), escape(title), escape(description), style, width, c.height, c.Bytes())
	return err
}

func (t Tone) class() string {
	return [...]string{"subject", "baseline", "peer", "sibling", "relative", "other"}[t]
}
