package lifeguard

import (
	"strings"
)

// observe looks at what is not kept for what it does to statements that are. What a function or a procedure does
// from inside cannot be seen.
func (s *session) observe(query string) {
	c := &s.kept
	for len(query) > 0 {
		statement, rest, sure := cutStatement(query, c.kind)
		if !sure {
			c.change(false) // whatever it is
		}
		c.observeOne(statement)
		query = rest
	}
}

// observeOne looks at a single statement. What it does not know changes everything: to have a statement prepared again
// costs little, to run one that means something else is wrong.
func (c *statementCache) observeOne(statement string) {
	verb, rest := leadingVerb(statement)
	switch verb {
	case "BEGIN", "START":
		c.inHand = true
	case "COMMIT", "END", "ABORT", "ROLLBACK":
		if word, _ := leadingVerb(rest); word != "TO" {
			c.inHand = false
		}
	case "SELECT", "WITH":
		if makesTable(rest) {
			c.change(false)
		}
	case "EXPLAIN":
		if containsFold(rest, "analy") && (makesTable(rest) || containsFold(rest, "create") || containsFold(rest, "execute")) {
			c.change(false) // it is run
		}
	case "DISCARD", "DEALLOCATE":
		// Statements that were prepared by hand have other names than a driver's, and may come and go.
		if verb == "DISCARD" || containsFold(rest, "all") {
			c.change(false)
			c.forgot = true
		}
	case "SET":
		if c.matters(rest) {
			word, _ := leadingVerb(rest)
			c.change(word == "LOCAL")
		}
	case "RESET":
		if c.matters(rest) {
			c.change(false)
		}
	case "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "VALUES", "TABLE", "TRUNCATE", "COPY", "CALL", "LOCK", "UNLOCK",
		"SAVEPOINT", "RELEASE", "LISTEN", "UNLISTEN", "NOTIFY", "DECLARE", "FETCH", "MOVE", "CLOSE", "SHOW",
		"DESCRIBE", "PREPARE", "ANALYZE", "VACUUM", "CHECKPOINT", "GRANT", "REVOKE", "COMMENT", "KILL", "FLUSH", "":
		if verb == "" && rest != "" {
			c.change(false)
		}
	default: // ALTER, CREATE, DROP, USE, DO, EXECUTE and others
		c.change(false)
	}
	if setsConfig(rest) {
		c.change(false)
	}
}

// cutStatement cuts the first of several statements off. sure is false if it depends on settings of the server where
// it ends, or on a syntax that is not understood here.
func cutStatement(query string, kind driverKind) (statement, rest string, sure bool) {
	if strings.IndexByte(query, ';') < 0 {
		return query, "", true
	}
	for i := 0; i < len(query); {
		end := i + 1
		switch ch := query[i]; {
		case ch == ';':
			return query[:i], query[end:], true
		case ch == '\'' || ch == '"' || ch == '`' && kind == goMySQL:
			n := strings.IndexByte(query[end:], ch)
			// A quote that is doubled ends one string and begins another, which comes to the same.
			if n < 0 || strings.IndexByte(query[end:end+n], '\\') >= 0 {
				return query, "", false
			}
			end += n + 1
		case ch == '-' && strings.HasPrefix(query[end:], "-"), ch == '#' && kind == goMySQL:
			n := strings.IndexByte(query[i:], '\n')
			if n < 0 {
				return query, "", true
			}
			if strings.IndexByte(query[i:i+n], '\r') >= 0 {
				return query, "", false // which ends it in PostgreSQL, and not in MySQL
			}
			end = i + n
		case ch == '/' && strings.HasPrefix(query[end:], "*"):
			n := strings.Index(query[i+2:], "*/")
			if n < 0 || strings.Contains(query[i+2:i+2+n], "/*") || strings.HasPrefix(query[i+2:], "!") {
				return query, "", false
			}
			end = i + n + 4
		case ch == '$' && kind != goMySQL && (i == 0 || !isWordByte(query[i-1])):
			tag := 1
			for i+tag < len(query) && isWordByte(query[i+tag]) && query[i+tag] != '$' {
				tag++
			}
			if i+tag == len(query) || query[i+tag] != '$' || query[end] >= '0' && query[end] <= '9' {
				break // $1
			}
			quote := query[i : i+tag+1]
			n := strings.Index(query[i+len(quote):], quote)
			if n < 0 {
				return query, "", false
			}
			end = i + n + 2*len(quote)
		}
		i = end
	}
	return query, "", true
}

// isWordByte says whether c may be in a name without quotes.
func isWordByte(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80
}

// change notes that statements may mean something else from now on; local, that this ends with the transaction.
func (c *statementCache) change(local bool) {
	if !local {
		c.schema++
	}
	c.unsettled = true
}

// matters says whether a SET or RESET may change what a statement means that was prepared before: the tables that
// its names stand for, or the values of its literals, which depend on the time zone, the style of dates, and more. So
// all settings do but those that are known not to.
func (c *statementCache) matters(rest string) bool {
	if c.kind == goMySQL {
		return containsFold(rest, "sql_mode") || containsFold(rest, "names") || containsFold(rest, "char") || containsFold(rest, "collation")
	}
	name := strings.TrimLeft(rest, " \t\r\n")
	for _, scope := range []string{"session ", "local "} {
		if len(name) > len(scope) && strings.EqualFold(name[:len(scope)], scope) {
			name = strings.TrimLeft(name[len(scope):], " \t\r\n")
			break
		}
	}
	if end := strings.IndexAny(name, " =\t\r\n;"); end >= 0 {
		name = name[:end]
	}
	return !harmless(name)
}

// harmless says whether a PostgreSQL setting of that name has no part in what a statement means.
func harmless(name string) bool {
	name = strings.ToLower(name)
	if strings.Contains(name, ".") { // a program's own
		return true
	}
	switch name {
	case "application_name", "characteristics", "client_min_messages", "constraints", "deadlock_timeout",
		"default_transaction_deferrable", "default_transaction_isolation", "default_transaction_read_only",
		"effective_cache_size", "idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout",
		"maintenance_work_mem", "plan_cache_mode", "statement_timeout", "synchronous_commit", "temp_buffers",
		"transaction", "transaction_timeout", "work_mem":
		return true
	}
	for _, prefix := range []string{"enable_", "jit", "log_", "track_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return strings.HasSuffix(name, "_cost")
}

// makesTable recognises SELECT … INTO in the text after the verb, at the price of a few others.
func makesTable(rest string) bool {
	for i := 0; i+len("into") <= len(rest); i++ {
		if rest[i]|0x20 != 'i' || !strings.EqualFold(rest[i:i+len("into")], "into") ||
			i > 0 && isWordByte(rest[i-1]) || i+len("into") < len(rest) && isWordByte(rest[i+len("into")]) {
			continue
		}
		before := strings.TrimRight(rest[:i], " \t\r\n\v\f")
		word := len(before)
		for word > 0 && isWordByte(before[word-1]) {
			word--
		}
		if before = before[word:]; !strings.EqualFold(before, "insert") && !strings.EqualFold(before, "merge") {
			return true
		}
	}
	return false
}

// setsConfig recognises a query that changes a setting which matters by way of PostgreSQL's function for it.
func setsConfig(rest string) bool {
	const function = "set_config"
	for i := 0; i+len(function) <= len(rest); i++ {
		if rest[i]|0x20 != 's' || !strings.EqualFold(rest[i:i+len(function)], function) {
			continue
		}
		name := strings.TrimLeft(rest[i+len(function):], " \t\r\n(")
		if !strings.HasPrefix(name, "'") {
			return true
		}
		if name, _, _ = strings.Cut(name[1:], "'"); !harmless(name) {
			return true
		}
	}
	return false
}

// maxKept bounds the text of a statement that is kept. A longer one, such as an INSERT of thousands of rows, takes so
// long that a round trip does not count, and its plan takes megabytes on the server.
const maxKept = 16 << 10

// keepable says whether query is one statement, of a kind that means the same whether it is prepared or not.
func keepable(query string) bool {
	if len(query) > maxKept {
		return false
	}
	verb, rest := leadingVerb(query)
	switch verb {
	case "SELECT", "WITH":
		if makesTable(rest) {
			return false
		}
	case "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES":
	default:
		return false
	}
	if setsConfig(rest) {
		return false
	}
	// Several statements cannot be prepared as one. A semicolon in a literal is taken for one between them: such a
	// query costs what it costs on the plain driver.
	semicolon := strings.IndexByte(query, ';')
	return semicolon < 0 || strings.Trim(query[semicolon:], "; \t\r\n") == ""
}

// leadingVerb gives the first word of query in upper case, after white space, comments and parentheses, and what
// follows it. If there is none it is "", and so it is with all that is there as the rest if that is not understood.
func leadingVerb(query string) (verb, rest string) {
	for {
		query = strings.TrimLeft(query, " \t\r\n\v\f(")
		switch {
		case strings.HasPrefix(query, "--"):
			line, after, found := strings.Cut(query, "\n")
			if strings.IndexByte(line, '\r') >= 0 {
				return "", query // which ends it in PostgreSQL, and not in MySQL
			}
			if !found {
				return "", ""
			}
			query = after
		case strings.HasPrefix(query, "/*"):
			// A comment that MySQL executes, or one inside another as PostgreSQL has them, is not worth understanding.
			end := strings.Index(query[2:], "*/") + 2
			if end < 2 || strings.HasPrefix(query, "/*!") || strings.Contains(query[2:end], "/*") {
				return "", query
			}
			query = query[end+2:]
		default:
			end := 0
			var upper [10]byte // DEALLOCATE
			for end < len(query) && end < len(upper) && (query[end]|0x20 >= 'a' && query[end]|0x20 <= 'z') {
				upper[end] = query[end] &^ 0x20
				end++
			}
			if end < len(query) && isWordByte(query[end]) {
				return "", query
			}
			return string(upper[:end]), query[end:]
		}
	}
}

// containsFold looks for lower, in lower case, in s in any case.
func containsFold(s, lower string) bool {
	for i := 0; i+len(lower) <= len(s); i++ {
		if s[i]|0x20 == lower[0]|0x20 && strings.EqualFold(s[i:i+len(lower)], lower) {
			return true
		}
	}
	return false
}
