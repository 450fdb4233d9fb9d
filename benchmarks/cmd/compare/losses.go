package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/workload"
)

// A subject is a candidate whose losses are listed, and those that it is held against, one group after the other.
type subject struct {
	candidate string
	rivals    []report.Rivals
}

func (p *page) subjects() []subject {
	base := p.candidates[0].Name()
	plain := func(other string) bool { return other == base }
	wrapper := func(other string) bool {
		return other != base && !workload.IsPGX(other) && !strings.HasPrefix(other, "lifeguard")
	}
	return []subject{
		{"lifeguard", []report.Rivals{plain, workload.IsPGX, wrapper}},
		// Whoever turns the cache off wants what the plain driver does, and no more.
		{"lifeguard (no cache)", []report.Rivals{plain}},
		// Making no spans at all is no way of making them faster.
		{"lifeguard (trace=all)", []report.Rivals{wrapper}},
		// On another driver that driver is the measure.
		{"lifeguard over pgx", []report.Rivals{func(other string) bool { return other == "pgx stdlib" }}},
	}
}

// writeLosses lists every figure in which another candidate is ahead of lifeguard, by the cause.
func (p *page) writeLosses(b *strings.Builder) {
	b.WriteString("## Where lifeguard is behind\n\n")
	found := false
	for _, s := range p.sections {
		causes := p.losses(s)
		if len(causes) == 0 {
			continue
		}
		if !found {
			found = true
			prose(b, "All figures in which plain `database/sql` or a pool or driver of pgx's is ahead by more than 5 % in at least "+
				"four rounds out of five, why, and by what factor: the time taken, the memory, or what is done in a second, "+
				"the other way round. A library that passes calls on to plain `database/sql` is listed only where that is "+
				"not ahead itself. lifeguard without the cache is held against plain `database/sql` alone, and with "+
				"`trace=all` against those that make spans.")
		}
		for _, c := range causes {
			prose(b, fmt.Sprintf("**%s.** %s", title(s), c.text))
			for _, place := range c.places {
				item(b, place.name+strings.Join(place.figures, ", "))
			}
			b.WriteString("\n")
		}
	}
	if !found {
		prose(b, "Nowhere by more than 5 % in four rounds out of five.")
	}
}

// cause is why figures are worse than others', with those figures by table and variant.
type cause struct {
	text   string
	places []*place
}

type place struct {
	name    string
	figures []string
}

// losses are those of a section, by cause.
func (p *page) losses(s *workload.Section) (causes []*cause) {
	base := p.candidates[0].Name()
	for _, t := range s.Tables {
		for _, subject := range p.subjects() {
			known := map[string]bool{} // figures in which the baseline is ahead
			for _, rivals := range subject.rivals {
				for _, loss := range t.Losses(subject.candidate, rivals) {
					figure := loss.Row.Variant + "/" + loss.Column
					wrapper := loss.To != base && !workload.IsPGX(loss.To)
					if wrapper && known[figure] {
						continue
					}
					known[figure] = known[figure] || loss.To == base
					text, note := "", ""
					switch {
					case wrapper && subject.candidate == "lifeguard":
						text = workload.WrappersOnly
					case s.Cause != nil:
						text, note = s.Cause(t, loss)
					}
					if text == "" {
						text = unexplained
					}
					i := slices.IndexFunc(causes, func(c *cause) bool { return c.text == text })
					if i < 0 {
						i = len(causes)
						causes = append(causes, &cause{text: text})
					}
					causes[i].add(t, loss, note)
				}
			}
		}
	}
	return causes
}

// unexplained is what is said where the figures of the run do not lead to a cause.
const unexplained = "These figures alone do not lead to a cause; the spread in the table says how far to trust them."

func (c *cause) add(t *report.Table, loss report.Loss, note string) {
	var where []string
	if t.Title != "" {
		where = append(where, t.Title)
	}
	if v := loss.Row.Variant; v != "" {
		where = append(where, strings.TrimSpace(t.Variants+" "+v))
	}
	if _, setting, ok := strings.Cut(loss.Row.Candidate, " ("); ok {
		where = append(where, "with "+strings.TrimSuffix(setting, ")"))
	}
	where = append(where, "behind "+loss.To)
	name := strings.Join(where, ", ") + ": "
	i := slices.IndexFunc(c.places, func(p *place) bool { return p.name == name })
	if i < 0 {
		i = len(c.places)
		c.places = append(c.places, &place{name: name})
	}
	figure := fmt.Sprintf("%s %.2f", loss.Column, loss.Factor)
	if math.IsInf(loss.Factor, 0) {
		figure = loss.Column + " (it has none)"
	}
	if note != "" {
		figure += " (" + note + ")"
	}
	c.places[i].figures = append(c.places[i].figures, figure)
}
