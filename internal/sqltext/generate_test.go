package sqltext_test

import (
	"strings"

	. "github.com/go-lifeguard/lifeguard/internal/sqltext"
)

// secret stands in every literal and comment that a generated query holds.
// None of its characters is used for anything else there, so one of them in a
// result, even of a query that was cut, is a literal that survived.
const (
	secret       = "ZQ7"
	secretNumber = "777"
)

func leaks(s string) bool { return strings.ContainsAny(s, secret) }

// choices makes decisions from the bytes of a fuzzing input.
type choices struct{ data []byte }

func (c *choices) next() int {
	if len(c.data) == 0 {
		return 0
	}
	b := c.data[0]
	c.data = c.data[1:]
	return int(b)
}

func (c *choices) done() bool            { return len(c.data) == 0 }
func (c *choices) bool() bool            { return c.next()&1 == 1 }
func (c *choices) of(n int) int          { return c.next() % n }
func (c *choices) one(s []string) string { return s[c.of(len(s))] }

// server is a database as it is set up: by what rules it reads a query.
type server struct {
	name     string
	dialect  Dialect // what lifeguard takes it for, besides Other
	literals []func(c *choices) string
	names    []func(c *choices) string
	comments []func(c *choices) string
	joints   []string
}

var fragments = []string{
	secret, "'", `"`, "`", `\`, "\n", " ", "--", "-- ", "/*", "*/", "#", "//", "$$", "$t$", "$", "[", "]", "]]",
	"{", "}", "(", ")", ";", ",", "''", `""`, "'''", `\'`, `\\`, "é", "\xff", "\r", "E", "q", "x", "%", "…", "\u00a0", "!",
}

// content is what a literal, name or comment holds.
func content(c *choices) string {
	var b strings.Builder
	for range c.of(6) {
		b.WriteString(c.one(fragments))
	}
	return b.String()
}

func hidden(c *choices) string { return content(c) + secret + content(c) }

func shown(c *choices) string {
	return "n" + strings.NewReplacer("Z", "", "Q", "", "7", "").Replace(content(c))
}

func double(s, quote string) string { return strings.ReplaceAll(s, quote, quote+quote) }

// plainString doubles quotes.
func plainString(prefix, quote string) func(c *choices) string {
	return func(c *choices) string { return prefix + quote + double(hidden(c), quote) + quote }
}

// escapedString escapes backslashes, and quotes in one of two ways.
func escapedString(prefix, quote string, doubles bool) func(c *choices) string {
	return func(c *choices) string {
		var b strings.Builder
		b.WriteString(prefix + quote)
		for _, r := range []byte(hidden(c)) {
			switch {
			case r == '\\', r == quote[0] && (!doubles || c.bool()):
				b.WriteByte('\\')
			case r == quote[0]:
				b.WriteByte(r)
			}
			b.WriteByte(r)
		}
		return b.String() + quote
	}
}

func without(s string, parts ...string) string {
	for again := true; again; {
		again = false
		for _, p := range parts {
			if strings.Contains(s, p) {
				s, again = strings.ReplaceAll(s, p, ""), true
			}
		}
	}
	return s
}

func dollarString(tags ...string) func(c *choices) string {
	return func(c *choices) string {
		tag := c.one(tags)
		return tag + without(hidden(c), "$") + tag
	}
}

func oracleString(c *choices) string {
	pair := c.one([]string{"[]", "()", "{}", "<>", "!!"})
	return c.one([]string{"q", "nq"}) + "'" + pair[:1] + without(hidden(c), pair[1:]+"'") + " " + pair[1:] + "'"
}

func tripleString(prefix, quote string) func(c *choices) string {
	return func(c *choices) string {
		inner := strings.ReplaceAll(without(hidden(c), `\`), quote+quote+quote, "")
		return prefix + strings.Repeat(quote, 3) + strings.TrimRight(without(inner, strings.Repeat(quote, 3)), quote) + strings.Repeat(quote, 3)
	}
}

func digits(forms ...string) func(c *choices) string {
	return func(c *choices) string { return c.one(forms) }
}

var plainNumbers = digits("777", "-777", "7.77", ".77", "7e7", "-7.7E-7", "7e+77", "0x77Z", "+77")

func lineComment(start, ends string) func(c *choices) string {
	return func(c *choices) string {
		inner := hidden(c)
		for _, e := range ends {
			inner = without(inner, string(e))
		}
		return start + inner + string(ends[c.of(len(ends))])
	}
}

func blockComment(c *choices) string {
	return "/*" + c.one([]string{"", " ", "+"}) + without(hidden(c), "*/", "!", "M!") + " */"
}

func nestedComment(c *choices) string {
	inner := without(hidden(c), "*/", "/*", "*", "/")
	if c.bool() {
		inner += " /* " + without(hidden(c), "*", "/") + " */ " + secret
	}
	return "/*" + inner + " */"
}

func plainName(c *choices) string { return c.one([]string{"a", "tbl", "o.b", "é", "_x$y", "e", "n"}) }

func quotedName(quote string) func(c *choices) string {
	return func(c *choices) string { return quote + double(shown(c), quote) + quote }
}

func escapedName(quote string) func(c *choices) string {
	return func(c *choices) string {
		return quote + strings.NewReplacer(`\`, `\\`, quote, `\`+quote).Replace(shown(c)) + quote
	}
}

func bracketName(c *choices) string { return "[" + strings.ReplaceAll(shown(c), "]", "]]") + "]" }

func simpleBracketName(c *choices) string { return "[" + without(shown(c), "]") + "]" }

var joints = []string{" ", " ", "\n", ",", "=", "(", ")", " IN (", " VALUES (", "),(", ";", "||", " - ", " + ", " AND ",
	" SELECT ", " FROM ", " WHERE ", " INSERT INTO ", " UPDATE ", " SET ", " JOIN ", " AS ", " NULL ", " WITH "}

var arrays = append([]string{" ARRAY[", "]", "["}, joints...)

var servers = []server{
	{
		name: "PostgreSQL", dialect: PostgreSQL,
		literals: []func(c *choices) string{plainString("", "'"), plainString("N", "'"), plainString("b", "'"),
			plainString("X", "'"), plainString("U&", "'"), escapedString("E", "'", true), escapedString("e", "'", true),
			dollarString("$$", "$t$", "$é_1$"), plainNumbers, digits("7_777", "0b77", "0o77", "7.7_7")},
		names:    []func(c *choices) string{plainName, quotedName(`"`), digits("$1", "?", "?|", "@>", "::", ":a", "->>", "#>>", "<->")},
		comments: []func(c *choices) string{nestedComment, lineComment("--", "\n\r")},
		joints:   arrays,
	},
	{
		name: "PostgreSQL, standard_conforming_strings=off", dialect: PostgreSQL,
		literals: []func(c *choices) string{escapedString("", "'", true), escapedString("N", "'", true),
			escapedString("E", "'", true), dollarString("$$", "$t$"), plainNumbers},
		names:    []func(c *choices) string{plainName, quotedName(`"`)},
		comments: []func(c *choices) string{nestedComment, lineComment("--", "\n\r")},
		joints:   arrays,
	},
	{
		name: "MySQL", dialect: MySQL,
		literals: []func(c *choices) string{escapedString("", "'", true), escapedString("", `"`, true),
			escapedString("N", "'", true), escapedString("_utf8mb4 ", `"`, true), plainNumbers},
		names: []func(c *choices) string{plainName, quotedName("`"), digits("?", "@v", "@@global.x", "--a", "$n$")},
		comments: []func(c *choices) string{blockComment, lineComment("#", "\n"), lineComment("-- ", "\n"),
			func(c *choices) string { return "/*!40101 " + escapedString("", "'", true)(c) + " */" },
			func(c *choices) string { return "/*M! " + plainNumbers(c) + " */" }},
		joints: joints,
	},
	{
		name: "MySQL, NO_BACKSLASH_ESCAPES", dialect: MySQL,
		literals: []func(c *choices) string{plainString("", "'"), plainString("", `"`), plainString("N", "'"), plainNumbers},
		names:    []func(c *choices) string{plainName, quotedName("`")},
		comments: []func(c *choices) string{blockComment, lineComment("#", "\n"), lineComment("-- ", "\n")},
		joints:   joints,
	},
	{
		name: "MySQL, ANSI_QUOTES", dialect: MySQL,
		literals: []func(c *choices) string{escapedString("", "'", true), plainNumbers},
		names:    []func(c *choices) string{plainName, quotedName("`"), quotedName(`"`)},
		comments: []func(c *choices) string{blockComment, lineComment("#", "\n")},
		joints:   joints,
	},
	{
		name: "SQLite", dialect: SQLite,
		literals: []func(c *choices) string{plainString("", "'"), plainString("x", "'"), plainNumbers,
			func(c *choices) string { return "= " + plainString("", `"`)(c) }},
		names: []func(c *choices) string{plainName, quotedName(`"`), quotedName("`"), simpleBracketName,
			digits("?", "?1", ":a", "@b", "$c", "->>")},
		comments: []func(c *choices) string{blockComment, lineComment("--", "\n")},
		joints:   joints,
	},
	{
		name: "SQL Server", dialect: Other,
		literals: []func(c *choices) string{plainString("", "'"), plainString("N", "'"), plainNumbers,
			digits("$77.77", "€777", "£.77")},
		names:    []func(c *choices) string{plainName, quotedName(`"`), bracketName, digits("@p", "#t ", "@@ROWCOUNT", "##t\n")},
		comments: []func(c *choices) string{nestedComment, lineComment("--", "\n")},
		joints:   joints,
	},
	{
		name: "Oracle", dialect: Other,
		literals: []func(c *choices) string{plainString("", "'"), plainString("N", "'"), oracleString, plainNumbers},
		names:    []func(c *choices) string{plainName, quotedName(`"`), digits("v$x", ":a", "a#b")},
		comments: []func(c *choices) string{blockComment, lineComment("--", "\n")},
		joints:   joints,
	},
	{
		name: "BigQuery", dialect: Other,
		literals: []func(c *choices) string{escapedString("", "'", false), escapedString("", `"`, false),
			escapedString("b", "'", false), tripleString("", "'"), tripleString("r", `"`), tripleString("br", "'"), plainNumbers},
		names:    []func(c *choices) string{plainName, escapedName("`"), digits("@p", "?")},
		comments: []func(c *choices) string{blockComment, lineComment("--", "\n"), lineComment("#", "\n")},
		joints:   arrays,
	},
	{
		name: "Snowflake", dialect: Other,
		literals: []func(c *choices) string{escapedString("", "'", true), dollarString("$$"), plainNumbers},
		names:    []func(c *choices) string{plainName, quotedName(`"`), digits("$v", "v:a")},
		comments: []func(c *choices) string{blockComment, lineComment("--", "\n"), lineComment("//", "\n")},
		joints:   arrays,
	},
}

// query writes a query that the server reads as the pieces it is made of, cut
// off at the end now and then.
func (s *server) query(c *choices) string {
	var b strings.Builder
	cut := c.next()
	for !c.done() && b.Len() < 4096 {
		switch k := c.of(8); {
		case k < 4:
			b.WriteString(s.literals[c.of(len(s.literals))](c))
		case k < 6:
			b.WriteString(s.names[c.of(len(s.names))](c))
		case k < 7:
			b.WriteString(s.comments[c.of(len(s.comments))](c))
		}
		b.WriteString(c.one(s.joints))
	}
	q := b.String()
	if cut&1 == 1 {
		q = q[:len(q)*cut/256]
	}
	return q
}
