package summary

import (
	"strings"
	"unicode/utf8"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// MaxLen is the most characters that Of returns.
const MaxLen = 255

// Of returns the verbs of query and what they work on, in the order in
// which the query names them, as OpenTelemetry defines db.query.summary:
//
//	SELECT * FROM customers, orders                  SELECT customers orders
//	INSERT INTO archive SELECT * FROM orders         INSERT archive SELECT orders
//	WITH a AS (SELECT * FROM b) UPDATE c SET …       SELECT b UPDATE c
//	CREATE TABLE IF NOT EXISTS customers (…)         CREATE TABLE customers
//
// Verbs and names keep the case and the quotes they were written with. The
// names of common table expressions are no tables and left out, as are
// savepoints, settings and cursors, whose names say little or change with every
// call. Statements that repeat the one before them are left out too, so that a
// batch has the same summary whatever its size. A summary holds no literal, is
// at most MaxLen characters long and ends with a whole name; it is empty
// when query has no verb that is known.
func Of(d sqltext.Dialect, query string) string {
	var b strings.Builder
	length := 0
	parts, _ := summarize(d, query)
	for i, p := range parts {
		size := utf8.RuneCountInString(p.text)
		if i > 0 {
			size++
		}
		if length += size; length > MaxLen {
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// Operation returns the verb of the first statement of query in capitals, such
// as SELECT, INSERT, BEGIN or COPY. That of WITH … INSERT is INSERT. It is empty
// when the verb is not known.
func Operation(d sqltext.Dialect, query string) string {
	parts, first := summarize(d, query)
	if i := mainVerb(parts[:first]); i >= 0 {
		return strings.ToUpper(parts[i].text)
	}
	return ""
}

// Target returns the first table, or other object, that the verb returned by
// Operation works on, as it is written in query, or else the first that the
// same statement names at all. It is empty where there is none.
func Target(d sqltext.Dialect, query string) string {
	parts, first := summarize(d, query)
	parts = parts[:first]
	main := mainVerb(parts)
	name := ""
	for i, p := range parts {
		switch {
		case p.role != target:
		case main >= 0 && i > main && p.depth == parts[main].depth:
			return p.text
		case name == "":
			name = p.text
		}
	}
	return name
}

// mainVerb returns the index of the first verb outside all brackets, or else of
// the first, or -1.
func mainVerb(parts []part) int {
	first := -1
	for i, p := range parts {
		if p.role != verb {
			continue
		}
		if p.depth == 0 {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

type role uint8

const (
	verb   role = iota + 1
	object      // what kind of thing is created, as in CREATE TABLE
	target
)

type part struct {
	role  role
	text  string
	depth int // how many brackets it stands in
}
