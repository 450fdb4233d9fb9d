package dsn

import (
	"slices"
	"strings"
)

// Parts is a DSN with the places of its settings.
type Parts struct {
	// Settings are in the order of the text. In a query part, and between
	// semicolons, they are all pieces between separators, empty ones too.
	Settings []Setting

	// Ambiguous says that the text can be read in two ways that differ in where
	// the password ends. An error must not show any value of such a DSN.
	Ambiguous bool

	// Remedy is what the writer of a DSN with doubtful settings should do.
	Remedy string

	dsn      string
	keywords bool // libpq's keywords and values; otherwise separator is between settings

	separator string
	head      int // where the text before the settings ends, -1 if there can be none
	first     int // where the settings begin: head, or behind the "?"
	end       int // where they end; in the keyword form, where reading stopped
}

// Setting is one parameter as it stands in a DSN.
type Setting struct {
	Name, Value string // decoded, or unquoted
	Malformed   bool   // Value could not be decoded
	Doubtful    bool   // it may be a part of the password

	from, to int // its bytes in the DSN
}

// Split finds the form of a DSN and the places of its settings.
//
// Keywords and semicolons are told by their first names. The other forms have a
// ":", "@" or "/" before any "=".
func Split(dsn string) Parts {
	if parts, ok := splitSemicolons(dsn); ok {
		return parts
	}
	if keywordStart.MatchString(dsn) {
		return splitKeywords(dsn)
	}
	if scheme := urlScheme(dsn); scheme != "" && scheme != "file" {
		return splitURL(dsn).parts
	}
	return splitPlain(dsn)
}

// Without returns the DSN without the settings marked in own, which is as long as
// Settings. One separator goes with each, so that the rest is the text as it was
// before they were put in. A "?" goes when nothing is left behind it.
func (p Parts) Without(own []bool) string {
	if !slices.Contains(own, true) {
		return p.dsn
	}
	if p.keywords {
		return p.withoutKeywords(own)
	}
	var kept []string
	for i, s := range p.Settings {
		if !own[i] {
			kept = append(kept, p.dsn[s.from:s.to])
		}
	}
	if len(kept) == 0 {
		return p.dsn[:p.head] + p.dsn[p.end:]
	}
	return p.dsn[:p.first] + strings.Join(kept, p.separator) + p.dsn[p.end:]
}
