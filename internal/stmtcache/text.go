package stmtcache

import "strings"

// effect is what a text does to statements that were prepared before, once it has run.
type effect uint8

const (
	keepable effect = 1 << iota // it is one statement that means the same prepared or not, and does nothing to others
	session                     // statements of this session may mean something else
	pool                        // statements of every session may
	ends                        // it ends a transaction, which may undo such a change, or show it to others
	undoes                      // it may do that, and the transaction may go on
	begins                      // it leaves a transaction open that it has begun
	forgets                     // the server forgets prepared statements

	unknown = session | pool | undoes
)

// maxText bounds the text of a kept statement. A longer one, such as an INSERT of a thousand rows, takes so long that a
// round trip does not count, and takes megabytes on the server.
const maxText = 16 << 10

// read says what query does. MySQL's texts and PostgreSQL's differ in comments and quotes.
func read(query string, mysql bool) effect {
	r := reader{text: query, mysql: mysql, keep: len(query) <= maxText}
	understood := strings.IndexByte(query, 0) < 0 // lib/pq's protocol ends a text there
	for understood && r.pos < len(r.text) {
		understood = r.token()
	}
	if !understood {
		if upper := strings.ToUpper(query); strings.Contains(upper, "BEGIN") || strings.Contains(upper, "START") {
			r.effect |= begins
		}
		return r.effect | unknown
	}
	r.endStatement()
	if r.effect == 0 && r.keep && r.statements == 1 {
		return keepable
	}
	return r.effect
}

// verb gives the first word of query in lower case, after white space and comments.
func verb(query string) string {
	r := reader{text: query}
	for !r.begun && r.pos < len(query) && r.token() {
	}
	return r.verb
}

// reader takes a text apart. It knows no grammar beyond the first words of a statement.
type reader struct {
	text  string
	mysql bool
	pos   int

	effect     effect
	keep       bool // nothing that was read forbids to keep the text
	statements int

	// Of the present statement.
	begun        bool
	verb, second string // its first two words, in lower case as all are
	previous     string // the word read last
	to           bool   // the word TO was read
	written      bool   // the name of what is written follows
	conflict     bool   // between ON CONFLICT and DO
	afterString  bool   // a string was read last: another continues it
}

// token reads on by one token; false if the text is not understood from here on.
func (r *reader) token() bool {
	rest := r.text[r.pos:]
	switch c := rest[0]; {
	case c == ' ' || c >= '\t' && c <= '\r':
		r.pos++
		return true
	case c == '-' && r.dashes(rest), c == '#' && r.mysql:
		return r.lineComment(rest)
	case strings.HasPrefix(rest, "/*"):
		return r.comment(rest)
	case c == '\'' || c == '"' || c == '`' && r.mysql:
		return r.quoted(c)
	case c == ';':
		r.pos++
		r.endStatement()
		return true
	}
	r.afterString = false
	switch c := rest[0]; {
	case isLetter(c) || c == '$' && r.mysql:
		return r.word(rest)
	case c == '$' && len(rest) > 1:
		return r.dollar(rest)
	case c == '\\':
		return false
	case c == '@' && r.mysql:
		r.keep = false // a variable's type is that of its value when the statement is prepared
	}
	r.pos++
	r.begun = r.begun || rest[0] != '(' // without a verb, if it is the first token
	return true
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80 }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// dashes says whether rest begins a comment. MySQL wants white space behind the dashes.
func (r *reader) dashes(rest string) bool {
	return strings.HasPrefix(rest, "--") && (!r.mysql || len(rest) == 2 || rest[2] <= ' ')
}

func (r *reader) lineComment(rest string) bool {
	line, _, _ := strings.Cut(rest, "\n")
	r.pos += len(line)
	// An inner \r ends it in PostgreSQL, and not in MySQL.
	return strings.IndexByte(strings.TrimSuffix(line, "\r"), '\r') < 0
}

// comment passes over a comment, but not over one that MySQL executes, nor one inside another, which only PostgreSQL knows.
func (r *reader) comment(rest string) bool {
	body, _, found := strings.Cut(rest[2:], "*/")
	r.pos += len(body) + 4
	return found && !strings.Contains(body, "/*") && !strings.HasPrefix(body, "!") && !strings.HasPrefix(body, "M!")
}

// quoted reads a string or a quoted name. Settings of the server decide what a backslash in it means.
func (r *reader) quoted(quote byte) bool {
	begin := r.pos + 1
	end := begin
	for {
		n := strings.IndexByte(r.text[end:], quote)
		if n < 0 {
			return false
		}
		end += n + 1
		if end == len(r.text) || r.text[end] != quote {
			break
		}
		end++ // doubled, it stands for itself
	}
	content := r.text[begin : end-1]
	r.pos, r.begun = end, true
	if strings.IndexByte(content, '\\') >= 0 {
		return false
	}
	switch {
	case r.mysql: // reads no times from a text, but a function's name may stand in quotes
		r.name(strings.ToLower(content))
		// In Asian encodings the quote may be the second byte of a character.
		return quote != '`' || strings.IndexFunc(content, func(c rune) bool { return c >= 0x80 }) < 0
	case quote == '"':
		r.afterString = false
		r.name(strings.ToLower(content))
		r.written = false
	default:
		r.keep = r.keep && !r.afterString && !namesTime(content)
		r.afterString = true
	}
	return true
}

// namesTime says whether a string that is read as a time, a range or an array of times when its text is parsed may stand
// for the time at which that happens. Quotes inside of it may be taken away before.
func namesTime(content string) bool {
	content = strings.ToLower(strings.ReplaceAll(content, `"`, ""))
	return strings.Contains(content, "now") || strings.Contains(content, "today") ||
		strings.Contains(content, "tomorrow") || strings.Contains(content, "yesterday")
}

// dollar reads a parameter or a string in dollar quotes.
func (r *reader) dollar(rest string) bool {
	r.begun = true
	n := 1
	if isDigit(rest[1]) {
		for n < len(rest) && isDigit(rest[n]) {
			n++
		}
		r.pos += n
		r.keep = r.keep && !r.conflict // a generic plan finds no index for a predicate that depends on an argument
		return true
	}
	for n < len(rest) && (isLetter(rest[n]) || n > 1 && isDigit(rest[n])) {
		n++
	}
	if n == len(rest) || rest[n] != '$' {
		return false
	}
	tag := rest[:n+1]
	body, _, found := strings.Cut(rest[len(tag):], tag)
	r.pos += len(body) + 2*len(tag)
	r.keep = false
	return found
}

// word reads a word, which may be the prefix of a string.
func (r *reader) word(rest string) bool {
	n := 1
	for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n]) || rest[n] == '$') {
		n++
	}
	r.pos += n
	word := strings.ToLower(rest[:n])
	if word == "u" && len(rest) > 2 && rest[1] == '&' && (rest[2] == '\'' || rest[2] == '"') {
		return false // its escapes need no backslash
	}
	switch {
	case !r.begun:
		r.begun, r.verb = true, word
	case r.second == "":
		r.second = word
	}
	r.name(word)
	switch word {
	case "to":
		r.to = true
	case "conflict":
		r.conflict = !r.mysql
	case "do":
		r.conflict = false
	case "time":
		r.keep = r.keep && r.previous != "with" // timetz, in the standard's words
	case "into":
		if !r.mysql && r.previous != "insert" && r.previous != "merge" {
			r.effect |= unknown // SELECT … INTO makes a table
		}
	}
	r.written = word == "update" || word == "into" || word == "from" && r.previous == "delete" || word == "only" && r.written
	r.previous = word
	return true
}

// name looks for names by which a query does more, or means less, than it seems.
func (r *reader) name(name string) {
	switch {
	case r.written && !r.mysql && strings.HasPrefix(name, "pg_") && !strings.HasPrefix(name, "pg_temp"):
		r.effect |= unknown // a catalog, most likely
	case r.mysql && (name == "row_count" || name == "found_rows"):
		r.keep = false // they tell of the statement before, which is to be the program's and not the cache's
	case strings.Contains(name, "timetz"):
		r.keep = false // the zone of such a literal depends on the day
	case name == "set_config", name == "pg_settings": // which an UPDATE sets
		r.effect |= session
	}
}

// endStatement judges a statement by its first words.
func (r *reader) endStatement() {
	if r.begun {
		r.statements++
		does := r.judge()
		if does&ends != 0 {
			r.effect &^= begins
		}
		r.effect |= does
	}
	r.begun, r.to, r.written, r.conflict, r.afterString = false, false, false, false, false
	r.verb, r.second, r.previous = "", "", ""
}

func (r *reader) judge() effect {
	switch r.verb {
	case "select", "with", "values", "insert", "update", "delete", "merge", "replace":
		return 0
	case "table", "savepoint", "release", "copy", "unlock", "listen", "unlisten", "notify",
		"declare", "fetch", "move", "close", "show", "vacuum", "analyze", "reindex", "cluster", "refresh":
		r.keep = false
		return 0
	case "lock", "truncate": // whoever waits for it goes on after the changes that its transaction has made
		return undoes
	case "begin", "start":
		if r.mysql && r.verb == "begin" && r.second != "" && r.second != "work" {
			return unknown // a block of statements
		}
		return begins
	case "commit", "end", "rollback", "abort":
		r.keep = false
		switch {
		case r.second == "prepared": // the change that another session made
			return unknown
		case r.to:
			return undoes
		case r.previous == "chain":
			return ends | begins
		}
		return ends
	case "set", "reset", "use":
		return session
	case "call":
		return session | undoes
	case "discard", "deallocate":
		return session | forgets
	case "create":
		if r.second == "temp" || r.second == "temporary" {
			return session
		}
	}
	return unknown
}
