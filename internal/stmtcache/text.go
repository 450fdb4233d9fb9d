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

// firstWord gives the first word of query in upper case, after white space and comments.
func firstWord(query string) string {
	r := reader{text: query}
	for !r.begun && r.pos < len(query) && r.token() {
	}
	return strings.ToUpper(r.verb)
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
	verb, second string // its first two words
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
	case c == '(':
		r.pos++
		return true
	}
	r.pos++
	r.begun = true // without a verb, if it is the first token
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
	case quote == '`':
		// In Asian encodings the quote may be the second byte of a character.
		return strings.IndexFunc(content, func(c rune) bool { return c >= 0x80 }) < 0
	case r.mysql: // reads no times from a text
	case quote == '"':
		r.afterString = false
		r.name(content)
		r.written = false
	default:
		if r.afterString || namesTime(content) {
			r.keep = false
		}
		r.afterString = true
	}
	return true
}

// namesTime says whether a string that is read as a time, a range or an array of times when its text is parsed may stand
// for the time at which that happens. Quotes inside of it may be taken away before.
func namesTime(content string) bool {
	for i := range len(content) {
		switch content[i] | 0x20 {
		case 'n', 't', 'y':
			for _, word := range []string{"now", "today", "tomorrow", "yesterday"} {
				if startsWith(content[i:], word) {
					return true
				}
			}
		}
	}
	return false
}

func startsWith(s, word string) bool {
	for ; len(word) > 0; s = s[1:] {
		switch {
		case s == "":
			return false
		case s[0] == '"':
		case s[0]|0x20 == word[0]|0x20:
			word = word[1:]
		default:
			return false
		}
	}
	return true
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
		if r.conflict {
			r.keep = false // a generic plan finds no index for a predicate that depends on an argument
		}
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
	word := rest[:n]
	r.pos += n
	if n == 1 && word[0]|0x20 == 'u' && len(rest) > 2 && rest[1] == '&' && (rest[2] == '\'' || rest[2] == '"') {
		return false // its escapes need no backslash
	}
	switch {
	case !r.begun:
		r.begun, r.verb = true, word
	case r.second == "":
		r.second = word
	}
	r.name(word)
	written := r.written
	r.written = false
	switch n {
	case 2:
		r.to = r.to || strings.EqualFold(word, "to")
		r.conflict = r.conflict && !strings.EqualFold(word, "do")
	case 4:
		r.written = written && strings.EqualFold(word, "only") || strings.EqualFold(word, "into") ||
			strings.EqualFold(word, "from") && strings.EqualFold(r.previous, "delete")
		if strings.EqualFold(word, "time") && strings.EqualFold(r.previous, "with") {
			r.keep = false // timetz, in the standard's words
		}
		if !r.mysql && strings.EqualFold(word, "into") && !strings.EqualFold(r.previous, "insert") && !strings.EqualFold(r.previous, "merge") {
			r.effect |= unknown // SELECT … INTO makes a table
		}
	case 6:
		r.written = strings.EqualFold(word, "update")
	case 8:
		r.conflict = r.conflict || !r.mysql && strings.EqualFold(word, "conflict")
	}
	r.previous = word
	return true
}

// name looks for names by which a query does more, or means less, than it seems.
func (r *reader) name(name string) {
	if r.written && !r.mysql && startsWith(name, "pg_") && !startsWith(name, "pg_temp") {
		r.effect |= unknown // a catalog, most likely
	}
	if r.mysql && (strings.EqualFold(name, "row_count") || strings.EqualFold(name, "found_rows")) {
		r.keep = false // they tell of the statement before, which is to be the program's and not the cache's
	}
	for i := range len(name) {
		switch {
		case name[i]|0x20 == 't' && startsWith(name[i:], "timetz"):
			r.keep = false // the zone of such a literal depends on the day
		case name[i]|0x20 == 'p' && len(name) == len("pg_settings") && startsWith(name, "pg_settings"), // an UPDATE sets
			name[i]|0x20 == 's' && len(name) == len("set_config") && startsWith(name, "set_config"):
			r.effect |= session
		}
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
	var upper [10]byte // as long as the longest verb here: one that is longer is unknown
	n := copy(upper[:], r.verb)
	if n < len(r.verb) {
		return unknown
	}
	for i := range n {
		upper[i] &^= 0x20
	}
	switch string(upper[:n]) {
	case "SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE":
		return 0
	case "TABLE", "SAVEPOINT", "RELEASE", "COPY", "UNLOCK", "LISTEN", "UNLISTEN", "NOTIFY",
		"DECLARE", "FETCH", "MOVE", "CLOSE", "SHOW", "VACUUM", "ANALYZE", "REINDEX", "CLUSTER", "REFRESH":
		r.keep = false
		return 0
	case "LOCK", "TRUNCATE": // whoever waits for it goes on after the changes that its transaction has made
		return undoes
	case "BEGIN", "START":
		if r.mysql && upper[0] == 'B' && r.second != "" && !strings.EqualFold(r.second, "work") {
			return unknown // a block of statements
		}
		return begins
	case "COMMIT", "END", "ROLLBACK", "ABORT":
		r.keep = false
		switch {
		case strings.EqualFold(r.second, "prepared"): // the change that another session made
			return unknown
		case r.to:
			return undoes
		case strings.EqualFold(r.previous, "chain"):
			return ends | begins
		}
		return ends
	case "SET", "RESET", "USE":
		return session
	case "CALL":
		return session | undoes
	case "DISCARD", "DEALLOCATE":
		return session | forgets
	case "CREATE":
		if strings.EqualFold(r.second, "temp") || strings.EqualFold(r.second, "temporary") {
			return session
		}
	}
	return unknown
}
