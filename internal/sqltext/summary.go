package sqltext

import (
	"strings"
	"unicode/utf8"
)

// MaxSummaryLen is the most characters that Summary returns.
const MaxSummaryLen = 255

// Summary returns the verbs of query and what they work on, in the order in
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
// at most MaxSummaryLen characters long and ends with a whole name; it is empty
// when query has no verb that is known.
func Summary(d Dialect, query string) string {
	var b strings.Builder
	length := 0
	parts, _ := summarize(d, query)
	for i, p := range parts {
		size := utf8.RuneCountInString(p.text)
		if i > 0 {
			size++
		}
		if length += size; length > MaxSummaryLen {
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
func Operation(d Dialect, query string) string {
	parts, first := summarize(d, query)
	if i := mainVerb(parts[:first]); i >= 0 {
		return strings.ToUpper(parts[i].text)
	}
	return ""
}

// Target returns the first table, or other object, that the verb returned by
// Operation works on, as it is written in query, or else the first that the
// same statement names at all. It is empty where there is none.
func Target(d Dialect, query string) string {
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

// scope is what the walker knows within one pair of brackets.
type scope struct {
	verb   string // of the statement it is in, in capitals
	start  bool   // a statement can begin here
	want   bool   // a name here is a target
	list   bool   // a comma brings another target
	tables bool   // these are the brackets of FROM (a JOIN b)

	with      with
	recursive bool
	cte       string // the common table expression being defined
	body      bool   // these are its brackets
}

// with is how far a WITH clause has come.
type with uint8

const (
	noWith with = iota
	withName
	withBody
	withNext
)

type walker struct {
	*lexer
	i      int
	parts  []part
	scopes []scope
	ctes   map[string]struct{}
	opaque bool // nothing but a list of targets matters until the next statement
	begin  int  // index of the first part of the present statement
	prior  int  // and of the one before
	first  int  // how many parts the first statement has
}

// summarize returns the parts of the summary of query, and how many of them
// belong to its first statement.
func summarize(d Dialect, query string) ([]part, int) {
	w := walker{lexer: lex(d, query)}
	w.conceal()
	w.reset()
	for w.i = 0; w.i < len(w.toks); w.i++ {
		w.step(w.toks[w.i])
	}
	w.endStatement()
	return w.parts, w.first
}

func (w *walker) reset() {
	w.scopes = append(w.scopes[:0], scope{start: true})
	w.ctes = nil
	w.opaque = false
}

// endStatement forgets the statement that has ended if it is like the one before.
func (w *walker) endStatement() {
	last, prior := w.parts[w.begin:], w.parts[w.prior:w.begin]
	if len(last) == 0 {
		return
	}
	if len(last) == len(prior) {
		same := true
		for i := range last {
			same = same && last[i] == prior[i]
		}
		if same {
			w.parts = w.parts[:w.begin]
			return
		}
	}
	w.prior, w.begin = w.begin, len(w.parts)
	if w.first == 0 {
		w.first = w.begin
	}
}

func (w *walker) top() *scope { return &w.scopes[len(w.scopes)-1] }

func (w *walker) emit(r role, text string) {
	w.parts = append(w.parts, part{r, clean(text), len(w.scopes) - 1})
}

// peek returns the token n places ahead, or one of no kind.
func (w *walker) peek(n int) token {
	if i := w.i + n; i >= 0 && i < len(w.toks) {
		return w.toks[i]
	}
	return token{}
}

func (w *walker) step(t token) {
	s := w.top()
	switch t.kind {
	case punct:
		w.punct(t)
	case word:
		if !w.isPunct(w.peek(-1), '.') {
			w.word(t)
		}
	case quoted:
		switch {
		case s.with == withName:
			w.defineCTE(t)
		case s.want:
			w.target()
		}
		s.start = false
	default:
		// EXEC @result = f
		s.want = s.want && strings.HasPrefix(s.verb, "EXEC")
		// {? = call f(?)} is how other languages' drivers spell CALL.
		if t.kind != param && t.kind != operator {
			s.start = false
		}
	}
}

func (w *walker) punct(t token) {
	s := w.top()
	switch c := w.src[t.start]; c {
	case '(', '[':
		if c == '[' && s.want && w.target() {
			return
		}
		child := scope{start: c == '('}
		if c == '(' && s.want {
			child.want, child.list, child.tables = true, true, true
		}
		if s.with == withBody {
			child.body = w.isWord(w.peek(-1), "AS") || w.isWord(w.peek(-1), "MATERIALIZED")
		}
		s.want = false
		w.scopes = append(w.scopes, child)
	case ')', ']':
		if len(w.scopes) == 1 {
			return
		}
		body := s.body
		w.scopes = w.scopes[:len(w.scopes)-1]
		if s = w.top(); body {
			w.addCTE(s.cte)
			s.with = withNext
		}
	case ',':
		switch {
		case s.with == withNext:
			s.with = withName
		case s.list:
			s.want = true
		}
	case ';':
		w.endStatement()
		w.reset()
	}
}

func (w *walker) defineCTE(t token) {
	s := w.top()
	s.cte = w.text(t)
	s.with = withBody
	if s.recursive {
		w.addCTE(s.cte)
	}
}

// addCTE makes name known as that of a common table expression. Without
// RECURSIVE it is known only behind its own definition: in
// WITH users AS (SELECT * FROM users) the second is the table.
func (w *walker) addCTE(name string) {
	if w.ctes == nil {
		w.ctes = make(map[string]struct{})
	}
	w.ctes[fold(name)] = struct{}{}
}

func fold(name string) string {
	return strings.ToLower(strings.Trim(name, "\"`[]"))
}

// target takes the name at i for a target, and reports whether it is one.
func (w *walker) target() bool {
	s := w.top()
	var (
		b     strings.Builder
		parts int
	)
	for j := w.i; ; {
		end := w.namePart(j)
		if end == j {
			break
		}
		for ; j < end; j++ {
			if t := w.toks[j]; t.space && j > w.i && w.src[t.start] != ']' && w.toks[j-1].kind == word {
				b.WriteByte(' ')
			}
			b.WriteString(w.text(w.toks[j]))
		}
		parts++
		w.i = j - 1
		points := j
		for j < len(w.toks) && w.isPunct(w.toks[j], '.') {
			j++
		}
		if j > points && j < len(w.toks) && (w.toks[j].kind == literal || w.toks[j].kind == param) {
			// The rest of the name is in quotes that may be those of a string.
			s.want = false
			return true
		}
		if j == points || w.namePart(j) == j {
			break
		}
		b.WriteString(strings.Repeat(".", j-points))
	}
	if parts == 0 {
		return false
	}
	s.want, s.start = false, false
	if _, ok := w.ctes[fold(b.String())]; parts > 1 || !ok {
		w.emit(target, b.String())
	}
	return true
}

// namePart returns the index behind the part of a name at i, or i.
func (w *walker) namePart(i int) int {
	if i >= len(w.toks) {
		return i
	}
	switch t := w.toks[i]; {
	case t.kind == word || t.kind == quoted:
		return i + 1
	case w.dialect == Other && w.isPunct(t, '['):
		// SQL Server's [Order Details]. Anything but words inside may be values.
		for j := i + 1; j < len(w.toks) && j <= i+8; j++ {
			if j > i+1 && w.isPunct(w.toks[j], ']') {
				return j + 1
			}
			if w.toks[j].kind != word {
				return i
			}
		}
	}
	return i
}

func (w *walker) word(t token) {
	s := w.top()
	text := w.text(t)
	upper := strings.ToUpper(text)
	switch {
	case w.opaque:
		if s.want && !endsList(upper) {
			w.target()
		}
		return
	case s.with == withName:
		if upper == "RECURSIVE" && !w.isWord(w.peek(1), "AS") {
			s.recursive = true
			return
		}
		w.defineCTE(t)
		return
	case s.with == withBody:
		return
	case s.with == withNext:
		// SEARCH and CYCLE clauses may come before the statement.
		s.start = isAnyOf(text, "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "VALUES", "TABLE")
	}
	if s.start && w.statement(upper) {
		return
	}
	if s.with == noWith {
		s.start = false
	}
	switch {
	case s.want && w.passOver(upper):
	case s.want && !isReserved(upper):
		w.target()
	default:
		w.clause(upper)
	}
}

// passOver tells whether the word stands between a verb and its target.
func (w *walker) passOver(upper string) bool {
	switch upper {
	case "ONLY", "LATERAL", "INTO":
		return true
	case "TABLE":
		// FROM TABLE(f(x)), INSERT OVERWRITE TABLE t
		return w.isPunct(w.peek(1), '(') || w.top().verb == "INSERT"
	case "DELAYED", "HIGH_PRIORITY", "IGNORE", "LOW_PRIORITY", "OVERWRITE", "QUICK":
		switch w.top().verb {
		case "INSERT", "REPLACE", "UPDATE", "DELETE":
			return w.peek(1).kind == word || w.peek(1).kind == quoted
		}
	case "OR":
		w.i++ // INSERT OR REPLACE
		return true
	}
	return false
}

func isReserved(upper string) bool {
	switch upper {
	case "SELECT", "FROM", "JOIN", "ON", "USING", "WITH", "AS":
		return true
	}
	return endsList(upper)
}

// endsList tells whether the word ends a list of tables.
func endsList(upper string) bool {
	switch upper {
	case "WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "UNION", "INTERSECT", "EXCEPT", "SET", "VALUES",
		"RETURNING", "FETCH", "FOR", "DEFAULT":
		return true
	}
	return false
}

// clause follows the parts of a query.
func (w *walker) clause(upper string) {
	s := w.top()
	switch upper {
	case "SELECT":
		w.emit(verb, w.text(w.toks[w.i]))
		*s = scope{verb: upper, body: s.body}
	case "FROM":
		switch s.verb {
		case "SELECT", "DELETE", "UPDATE":
			// a IS DISTINCT FROM b
			if w.isWord(w.peek(-1), "DISTINCT") && (w.isWord(w.peek(-2), "IS") || w.isWord(w.peek(-2), "NOT")) {
				return
			}
			s.want, s.list = true, true
		}
	case "JOIN", "APPLY":
		if s.verb != "" || s.tables {
			s.want = true
		}
	case "STRAIGHT_JOIN":
		s.want = s.list
	case "USING":
		if s.verb == "MERGE" || (s.verb == "DELETE" && (!w.isPunct(w.peek(1), '(') || w.isQuery(w.peek(2)))) {
			s.want, s.list = true, s.verb == "DELETE"
		}
	case "INTO":
		if s.verb == "SELECT" && !w.isWord(w.peek(1), "OUTFILE") && !w.isWord(w.peek(1), "DUMPFILE") {
			for isAnyOf(w.text(w.peek(1)), "TEMP", "TEMPORARY", "UNLOGGED", "TABLE", "STRICT") {
				w.i++
			}
			s.want = true
		}
	case "WITH":
		// INSERT INTO t WITH a AS (…) SELECT, and not FROM f() WITH ORDINALITY AS t
		name, behind := w.peek(1), w.peek(2)
		if w.isWord(name, "RECURSIVE") {
			name, behind = behind, w.peek(3)
		}
		if (s.verb == "INSERT" || s.verb == "REPLACE" || s.verb == "CREATE") &&
			(name.kind == word || name.kind == quoted) && (w.isWord(behind, "AS") || w.isPunct(behind, '(')) {
			s.with = withName
		}
	default:
		if endsList(upper) || upper == "WINDOW" {
			s.want, s.list = false, false
		}
	}
}

// statement begins the statement whose verb the word at i is, if it is one.
func (w *walker) statement(upper string) bool {
	s := w.top()
	call := w.isPunct(w.peek(1), '(')
	switch upper {
	case "SELECT":
		w.clause(upper)
		return true
	case "WITH":
		*s = scope{with: withName, body: s.body}
		return true
	case "INSERT", "UPDATE", "MERGE", "DELETE":
		if call {
			return false // MySQL has a function INSERT
		}
		w.verb(upper)
		s.want = upper != "DELETE" || !w.hasFrom()
		s.list = upper == "UPDATE" || upper == "DELETE"
		return true
	}
	if upper == "TABLE" && !call {
		w.verb(upper)
		s.want = true
		return true
	}
	if len(w.scopes) > 1 {
		// The rest is not found in brackets, or, like VALUES, says nothing there.
		if upper == "VALUES" {
			*s = scope{body: s.body}
			return true
		}
		return false
	}
	switch upper {
	case "REPLACE", "UPSERT":
		w.verb(upper)
		s.want = true
	case "VALUES":
		w.verb(upper)
	case "COPY", "CALL", "EXEC":
		w.verb(upper)
		s.want = true
	case "EXECUTE":
		w.verb(upper)
		s.want = !w.isWord(w.peek(1), "IMMEDIATE")
	case "EXPLAIN", "DESCRIBE", "DESC":
		w.explain(upper)
	case "CREATE", "ALTER", "DROP", "REFRESH", "RENAME":
		w.define(upper)
	case "TRUNCATE", "LOCK", "VACUUM", "ANALYZE", "CLUSTER", "REINDEX", "OPTIMIZE", "REPAIR", "CHECK":
		w.maintain(upper)
	case "PREPARE":
		w.prepare(upper)
	case "DECLARE":
		w.verb(upper)
		w.opaque = w.peek(1).kind == param
	case "PRAGMA":
		w.verb(upper)
		w.opaque = true
		if n := w.peek(1); n.kind == word {
			w.emit(object, w.text(n))
			w.i++
		}
	case "START":
		w.verb(upper)
		w.opaque = true
		if w.isWord(w.peek(1), "TRANSACTION") {
			w.i++
			w.emit(object, w.text(w.toks[w.i]))
		}
	case "ABORT", "ATTACH", "BACKUP", "BEGIN", "CHECKPOINT", "CLOSE", "COMMENT", "COMMIT", "DEALLOCATE", "DENY",
		"DETACH", "DISCARD", "DO", "END", "FETCH", "FLUSH", "GRANT", "HANDLER", "IMPORT", "INSTALL", "KILL",
		"LISTEN", "LOAD", "MOVE", "NOTIFY", "PURGE", "REASSIGN", "RELEASE", "RESET", "RESTORE", "REVOKE",
		"ROLLBACK", "SAVE", "SAVEPOINT", "SECURITY", "SET", "SHOW", "UNINSTALL", "UNLISTEN", "UNLOCK", "USE", "XA":
		w.verb(upper)
		w.opaque = true
	default:
		return false
	}
	return true
}

func (w *walker) verb(upper string) {
	w.emit(verb, w.text(w.toks[w.i]))
	s := w.top()
	*s = scope{verb: upper, body: s.body}
}

// hasFrom tells whether a FROM belongs to the DELETE at i. The names before it
// are aliases of tables behind it.
func (w *walker) hasFrom() bool {
	depth := 0
	for _, t := range w.toks[w.i:min(w.i+64, len(w.toks))] {
		switch {
		case w.isPunct(t, '('):
			depth++
		case w.isPunct(t, ')'):
			if depth--; depth < 0 {
				return false
			}
		case w.isPunct(t, ';') || (depth == 0 && w.isWord(t, "WHERE")):
			return false
		case depth == 0 && w.isWord(t, "FROM"):
			return true
		}
	}
	return false
}

// skipBrackets goes to the last token of the brackets that begin behind i.
func (w *walker) skipBrackets() {
	if !w.isPunct(w.peek(1), '(') {
		return
	}
	depth := 0
	for w.i+1 < len(w.toks) {
		w.i++
		switch t := w.toks[w.i]; {
		case w.isPunct(t, '('):
			depth++
		case w.isPunct(t, ')'):
			depth--
		}
		if depth == 0 {
			return
		}
	}
}

// skipWords goes to the last of the given words that follow i.
func (w *walker) skipWords(keywords ...string) {
	for w.peek(1).kind == word && isAnyOf(w.text(w.peek(1)), keywords...) {
		w.i++
	}
}

// explain handles EXPLAIN and its options; the statement follows, or, in MySQL,
// a table.
func (w *walker) explain(upper string) {
	w.verb(upper)
	w.skipBrackets()
	w.skipWords("ANALYZE", "ANALYSE", "VERBOSE", "EXTENDED", "PARTITIONS", "QUERY", "PLAN", "PIPELINE", "AST", "SYNTAX")
	if w.isWord(w.peek(1), "FORMAT") {
		w.i++
		if w.isOperator(w.peek(1), '=') {
			w.i++
		}
		w.i++
	}
	s := w.top()
	s.start = true
	if next := w.peek(1); next.kind == quoted || (next.kind == word && !w.isVerb(next)) {
		s.start, s.want = false, true
		w.opaque = true
	}
}

func (w *walker) isVerb(t token) bool {
	return isAnyOf(w.text(t), "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "WITH", "VALUES", "TABLE",
		"EXECUTE", "CREATE", "DECLARE", "REFRESH", "FOR")
}

// define handles the definition of tables and other objects.
func (w *walker) define(upper string) {
	w.verb(upper)
	w.opaque = true
	s := w.top()
	kind := ""
	for kind == "" {
		next := w.peek(1)
		if next.kind != word {
			return
		}
		switch k := strings.ToUpper(w.text(next)); k {
		case "OR", "REPLACE", "TEMP", "TEMPORARY", "GLOBAL", "LOCAL", "UNLOGGED", "UNIQUE", "CLUSTERED",
			"NONCLUSTERED", "FULLTEXT", "SPATIAL", "VIRTUAL", "EXTERNAL", "FOREIGN", "MATERIALIZED", "RECURSIVE",
			"CONSTRAINT", "AGGREGATE", "TRANSIENT", "DYNAMIC", "EVENT_TRIGGER", "TRUSTED", "PROCEDURAL", "NO", "FORCE":
			w.i++
		case "DEFINER", "ALGORITHM", "SQL":
			// MySQL: DEFINER = `root`@`localhost` SQL SECURITY INVOKER VIEW v
			for n := 0; n < 8 && !isObject(strings.ToUpper(w.text(w.peek(1)))); n++ {
				w.i++
			}
			if !isObject(strings.ToUpper(w.text(w.peek(1)))) {
				return
			}
		default:
			if !isObject(k) {
				return
			}
			w.i++
			kind = k
			w.emit(object, w.text(next))
		}
	}
	if kind == "SYSTEM" {
		return
	}
	stores := kind == "TABLE" || w.isWord(w.peek(-1), "MATERIALIZED")
	w.skipWords("IF", "NOT", "EXISTS", "CONCURRENTLY", "ONLY")
	if kind == "INDEX" {
		w.skipWords("ON", "ONLY") // an index that gets its name from the server
	}
	s.want, s.list = true, upper == "DROP"
	if upper == "CREATE" && stores {
		w.opaque = false // CREATE TABLE t AS SELECT …
	}
}

func isObject(upper string) bool {
	switch upper {
	case "TABLE", "VIEW", "INDEX", "SEQUENCE", "SCHEMA", "DATABASE", "FUNCTION", "PROCEDURE", "ROUTINE", "TRIGGER",
		"TYPE", "DOMAIN", "EXTENSION", "ROLE", "USER", "GROUP", "LOGIN", "POLICY", "RULE", "SERVER", "EVENT",
		"PUBLICATION", "SUBSCRIPTION", "STATISTICS", "TABLESPACE", "COLLATION", "LANGUAGE", "SYNONYM", "PACKAGE",
		"SYSTEM":
		return true
	}
	return false
}

// maintain handles verbs that go over whole tables.
func (w *walker) maintain(upper string) {
	w.verb(upper)
	w.opaque = true
	w.skipBrackets()
	w.skipWords("FULL", "FREEZE", "VERBOSE", "ANALYZE", "LOCAL", "NO_WRITE_TO_BINLOG")
	if next := w.peek(1); next.kind == word &&
		isAnyOf(w.text(next), "TABLE", "TABLES", "INDEX", "SCHEMA", "DATABASE", "SYSTEM") {
		w.i++
		w.emit(object, w.text(next))
	}
	w.skipWords("CONCURRENTLY", "ONLY", "IF", "EXISTS")
	s := w.top()
	s.want, s.list = true, true
}

// prepare handles PREPARE name AS statement. MySQL has the statement in a
// string instead.
func (w *walker) prepare(upper string) {
	w.verb(upper)
	w.opaque = true
	if next := w.peek(1); next.kind != word && next.kind != quoted {
		return
	}
	w.i++
	w.skipBrackets()
	if w.isWord(w.peek(1), "AS") {
		w.i++
		w.top().start = true
		w.opaque = false
	}
}
