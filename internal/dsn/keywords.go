package dsn

import (
	"regexp"
	"strings"
)

// space separates settings in the keyword form. lib/pq also takes other white
// space of Unicode for a separator, pgx does not. A password is safe in both only
// if none but the common ones count here.
const space = " \t\n\v\f\r"

var keywordStart = regexp.MustCompile(`^[ \t\n\v\f\r]*[A-Za-z_][A-Za-z0-9_.]*[ \t\n\v\f\r]*=`)

// splitKeywords finds the settings of a libpq string. It stops where the string
// breaks the rules (no "=", no closing quote): every driver refuses such a string
// and says why.
func splitKeywords(dsn string) Parts {
	parts := Parts{dsn: dsn, keywords: true, head: -1}
	isSpace := func(i int) bool { return strings.IndexByte(space, dsn[i]) >= 0 }
	skipSpace := func(i int) int {
		for i < len(dsn) && isSpace(i) {
			i++
		}
		return i
	}
	i := skipSpace(0)
	for i < len(dsn) {
		s := Setting{from: i}
		for i < len(dsn) && dsn[i] != '=' && !isSpace(i) {
			i++
		}
		s.Name = dsn[s.from:i]
		if i = skipSpace(i); i == len(dsn) || dsn[i] != '=' {
			break
		}
		value, to, closed := keywordValue(dsn, skipSpace(i+1))
		if !closed {
			break
		}
		s.Value, s.to = value, to
		parts.Settings = append(parts.Settings, s)
		parts.end = to
		i = skipSpace(to)
	}
	return parts
}

// keywordValue returns the value that starts at from, without quotes and escapes,
// and its end. closed is false if a quote has no partner.
func keywordValue(dsn string, from int) (value string, end int, closed bool) {
	i := from
	quoted := i < len(dsn) && dsn[i] == '\''
	if quoted {
		i++
	}
	var b strings.Builder
	for ; i < len(dsn); i++ {
		if quoted && dsn[i] == '\'' || !quoted && strings.IndexByte(space, dsn[i]) >= 0 {
			break
		}
		if dsn[i] == '\\' && i+1 < len(dsn) {
			i++
		}
		b.WriteByte(dsn[i])
	}
	if quoted {
		if i == len(dsn) {
			return "", i, false
		}
		i++
	}
	return b.String(), i, true
}

// unread returns the rest of a keyword string behind the place where it breaks the
// rules, or "".
func (p Parts) unread() string { return strings.Trim(p.dsn[p.end:], space) }

// withoutKeywords takes the space before a setting out with it. As long as nothing
// stands before, it takes the space after it instead. A setting that another one
// follows without space (a quote allows that) leaves its own space to that one.
func (p Parts) withoutKeywords(own []bool) string {
	var b strings.Builder
	done := 0        // text up to here is copied or dropped
	leading := true  // nothing but dropped settings so far
	previousEnd := 0 // of the setting before, kept or dropped
	for i, s := range p.Settings {
		next := len(p.dsn)
		if i+1 < len(p.Settings) {
			next = p.Settings[i+1].from
		} else if p.unread() != "" {
			next -= len(strings.TrimLeft(p.dsn[s.to:], space))
		}
		switch {
		case !own[i]:
			leading = false
		case leading:
			b.WriteString(p.dsn[done:s.from])
			done = next
		case next == s.to && next < len(p.dsn):
			b.WriteString(p.dsn[done:s.from])
			done = s.to
		default:
			b.WriteString(p.dsn[done:previousEnd])
			done = s.to
		}
		previousEnd = s.to
	}
	b.WriteString(p.dsn[done:])
	return b.String()
}
