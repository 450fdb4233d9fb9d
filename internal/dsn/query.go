package dsn

import (
	"net/url"
	"strings"
)

// splitQuery finds the query part of dsn, which starts at the first "?" at or
// after from and ends at end, and fills in its settings.
//
// A ";" separates nothing there: net/url, libpq and the MySQL driver agree.
func (p *Parts) splitQuery(from, end int) {
	p.separator, p.head, p.end = "&", -1, end
	q := strings.IndexByte(p.dsn[from:end], '?')
	if q < 0 {
		return
	}
	p.head, p.first = from+q, from+q+1
	at := p.first
	for piece := range strings.SplitSeq(p.dsn[at:end], "&") {
		name, value, _ := strings.Cut(piece, "=")
		s := Setting{Name: name, from: at, to: at + len(piece)}
		if plain, err := url.QueryUnescape(name); err == nil {
			s.Name = plain
		}
		var err error
		s.Value, err = url.QueryUnescape(value)
		s.Malformed = err != nil
		p.Settings = append(p.Settings, s)
		at = s.to + 1
	}
}
