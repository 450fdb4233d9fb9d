package lifeguard

import (
	"cmp"
	"net"
	"net/url"
	"os"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// dsnParts is a DSN with the places of its parameters. Nothing is rebuilt from
// it: parameters are cut out of the text, so that all other bytes stay.
type dsnParts struct {
	dsn      string
	settings []setting // in the order of the text; in a query, every piece between separators

	keywords   bool // libpq keywords and values; otherwise a query part, if there is one
	query, end int  // the "?" of the query part, -1 if there is none, and where that part ends

	// ambiguous says that the text can be read in two ways that differ in where
	// the password ends. Settings that start before doubtful may be a part of it.
	ambiguous bool
	doubtful  int
}

// setting is one parameter as it stands in a DSN.
type setting struct {
	name, value string // decoded, or unquoted
	malformed   bool   // value could not be decoded
	from, to    int    // its bytes in the DSN
}

// space is what separates settings in the keyword form. lib/pq also takes other
// white space of Unicode for a separator, pgx does not. A password is safe in
// both if only the common ones count here.
const space = " \t\n\v\f\r"

var (
	urlStart     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)
	keywordStart = regexp.MustCompile(`^[ \t\n\v\f\r]*[A-Za-z_][A-Za-z0-9_.]*[ \t\n\v\f\r]*=`)
	// pathStart finds the DSNs of embedded databases that have a colon, but no
	// user and password before an "@": file:…, :memory: and C:\….
	pathStart = regexp.MustCompile(`^((?i:file:)|:memory:|[A-Za-z]:[\\/])`)

	// mysqlForm finds what only go-sql-driver/mysql has: …@tcp(host)/database
	// with no further "/".
	mysqlForm = regexp.MustCompile(`(^|@)(tcp|unix)\([^()]*\)/[^/]*$`)

	// hostList matches what can follow a user and password in a URL, or stand
	// there without them: hosts with numeric ports, [IPv6], net(address).
	hostList = regexp.MustCompile(`^` + hostPort + `(,` + hostPort + `)*$`)
)

// hostPort does not match a colon with no port behind it. That is allowed, but
// before a "/" or "?" and an "@" it more probably ends a user name.
const hostPort = `(\[[^\[\]]*\]|[^:,\[\]()]*(\([^()]*\))?)(:[0-9]+)?`

// splitDSN finds the form of a DSN and the places of its parameters.
//
// A keyword string is told by its first word, where the others have a ":", "@"
// or "/" before any "=".
func splitDSN(dsn string) dsnParts {
	if keywordStart.MatchString(dsn) {
		return splitKeywords(dsn)
	}
	if scheme := urlScheme(dsn); scheme != "" && scheme != "file" {
		return splitURL(dsn).parts
	}
	return splitPlain(dsn)
}

// urlScheme returns the scheme of a URL with an authority in lower case, or "".
// A MySQL password that starts with "//" does not make its user a scheme.
func urlScheme(dsn string) string {
	scheme := strings.ToLower(strings.TrimSuffix(urlStart.FindString(dsn), "://"))
	if scheme != "postgres" && scheme != "postgresql" && mysqlForm.MatchString(dsn) {
		return ""
	}
	return scheme
}

// urlShape is a URL with the places of its authority.
type urlShape struct {
	parts  dsnParts
	userAt int // start of user:password@, if there is one
	hostAt int // start of the hosts
	pathAt int // start of what follows them
}

// splitURL finds the query part of a URL.
//
// The query starts at the first "?" after the authority, and ends at a "#". The
// authority ends at the first "/", "?" or "#", and the password at the last "@"
// in it (RFC 3986; lib/pq, pgx and the drivers of other databases agree).
//
// A password that was not percent-encoded breaks this rule when it has one of
// these characters itself. It is recognised by what it leaves behind: an
// authority that cannot be a host (user:pa, with the rest of the password after
// a "?"), and an "@" further on. Then the password ends at the last "@" that
// can be followed by a host. libpq and pgx read such passwords with "?" too.
//
// Where both readings are possible, as in postgres://u:p@x?a=b@h/db, the "@"
// in what would be the query decides if the authority has a colon and ends with
// "?", and a path or a query comes after the second host. Otherwise the RFC
// does, and parameters that may be a part of the password are refused.
func splitURL(dsn string) urlShape {
	start := len(urlStart.FindString(dsn))
	indexAny := func(from int, chars string) int {
		if i := strings.IndexAny(dsn[from:], chars); i >= 0 {
			return from + i
		}
		return len(dsn)
	}

	s := urlShape{userAt: start, hostAt: start, pathAt: indexAny(start, "/?#")}
	if at := strings.LastIndexByte(dsn[start:s.pathAt], '@'); at >= 0 {
		s.hostAt = start + at + 1
	}
	parts := dsnParts{dsn: dsn, query: -1}
	later := strings.Contains(dsn[s.pathAt:], "@")
	host, end := lastHost(dsn, s.pathAt)
	switch {
	case !later:
	case !hostList.MatchString(dsn[s.hostAt:s.pathAt]):
		if host < 0 {
			host = strings.LastIndexByte(dsn, '@') + 1
			end = indexAny(host, "/?#")
		}
		s.hostAt, s.pathAt = host, end
	case host < 0:
	default:
		parts.ambiguous = true
		more := end < len(dsn) && dsn[end] != '#'
		if more && dsn[s.pathAt] == '?' && strings.Contains(dsn[start:s.pathAt], ":") {
			s.hostAt, s.pathAt = host, end
		} else if more {
			parts.doubtful = host
		}
	}

	parts.end = indexAny(s.pathAt, "#")
	if q := strings.IndexByte(dsn[s.pathAt:parts.end], '?'); q >= 0 {
		parts.query = s.pathAt + q
	}
	parts.splitQuery()
	s.parts = parts
	return s
}

// lastHost returns the start and end of the last text at or after from that
// follows an "@" and can be a host or a list of them, up to a "/", "?", "#" or
// the end of dsn. It returns -1 if there is none.
func lastHost(dsn string, from int) (start, end int) {
	for start = len(dsn); start > from; start-- {
		if dsn[start-1] != '@' {
			continue
		}
		end = hostEnd(dsn, start)
		if end == len(dsn) || strings.IndexByte("/?#", dsn[end]) >= 0 {
			return start, end
		}
	}
	return -1, -1
}

// hostEnd returns where a host, or a net(address) of the MySQL form, that starts
// at from ends: at the first character that none has outside of parentheses.
func hostEnd(dsn string, from int) int {
	for i := from; i < len(dsn); i++ {
		switch dsn[i] {
		case '/', '?', '#', '&', '=', '@', ')':
			return i
		case '(':
			n := strings.IndexAny(dsn[i+1:], "()")
			if n < 0 || dsn[i+1+n] == '(' {
				return i
			}
			return i + n + 2
		}
	}
	return len(dsn)
}

// splitPlain finds the query part of a DSN that is neither a URL nor keywords:
// user:password@net(address)/database?… of MySQL, and file names.
//
// The query starts at the first "?" after the password and the address; the
// drivers for SQLite and MySQL agree. The password, which is not encoded in the
// MySQL form and may have any character, ends as go-sql-driver/mysql reads it:
// at the last "@" before the last "/". Where that does not leave an address
// between the two (a "/" in a value, a DSN of another driver), it ends at the
// last "@" that can be followed by a host. An "@" that only such a host follows
// (host:5432/db?email=a@b) does not count if the DSN starts with a host of its
// own.
//
// There is a password only where a ":" comes before the first "?": a user name
// has no "?", and file names with an "@" in their query (app.db?_auth_user=a@b)
// are common.
func splitPlain(dsn string) dsnParts {
	parts := dsnParts{dsn: dsn, query: -1, end: len(dsn)}
	from := hostEnd(dsn, 0)
	if colon := strings.IndexAny(dsn, ":?"); colon >= 0 && dsn[colon] == ':' && !pathStart.MatchString(dsn) {
		slash := strings.LastIndexByte(dsn, '/')
		at := strings.LastIndexByte(dsn[:max(slash, 0)], '@')
		if at >= 0 && isAddress(dsn[at+1:slash]) {
			from = slash
			host, _ := lastHost(dsn, slash)
			parts.ambiguous = host >= 0
		} else if host, end := lastHost(dsn, 0); host >= 0 {
			front := dsn[:strings.IndexAny(dsn+"?", "/?")]
			parts.ambiguous = end == len(dsn) && hostList.MatchString(front)
			if !parts.ambiguous {
				from = end
			}
		}
	}
	if q := strings.IndexByte(dsn[from:], '?'); q >= 0 {
		parts.query = from + q
	}
	parts.splitQuery()
	return parts
}

// isAddress reports whether the MySQL driver reads text as net or net(address).
func isAddress(text string) bool {
	network, address, found := strings.Cut(text, "(")
	return !strings.ContainsAny(network, "/?#&=)") && (!found || strings.HasSuffix(address, ")"))
}

// splitQuery fills settings with the pieces of the query part, empty ones too.
// A ";" separates nothing: net/url, libpq and the MySQL driver agree.
func (d *dsnParts) splitQuery() {
	if d.query < 0 {
		return
	}
	from := d.query + 1
	for piece := range strings.SplitSeq(d.dsn[from:d.end], "&") {
		name, value, _ := strings.Cut(piece, "=")
		s := setting{name: name, from: from, to: from + len(piece)}
		if plain, err := url.QueryUnescape(name); err == nil {
			s.name = plain
		}
		var err error
		s.value, err = url.QueryUnescape(value)
		s.malformed = err != nil
		d.settings = append(d.settings, s)
		from = s.to + 1
	}
}

// splitKeywords finds the settings of a libpq string. Where that breaks the
// rules (no "=", no closing quote), it stops: every driver refuses such a string
// and says why.
func splitKeywords(dsn string) dsnParts {
	parts := dsnParts{dsn: dsn, keywords: true, query: -1, end: len(dsn)}
	isSpace := func(i int) bool { return strings.IndexByte(space, dsn[i]) >= 0 }
	skipSpace := func(i int) int {
		for i < len(dsn) && isSpace(i) {
			i++
		}
		return i
	}
	for i := skipSpace(0); i < len(dsn); i = skipSpace(i) {
		s := setting{from: i}
		for i < len(dsn) && dsn[i] != '=' && !isSpace(i) {
			i++
		}
		s.name = dsn[s.from:i]
		if i = skipSpace(i); i == len(dsn) || dsn[i] != '=' {
			break
		}
		i = skipSpace(i + 1)
		quoted := i < len(dsn) && dsn[i] == '\''
		if quoted {
			i++
		}
		var value strings.Builder
		for i < len(dsn) {
			if quoted && dsn[i] == '\'' || !quoted && isSpace(i) {
				break
			}
			if dsn[i] == '\\' && i+1 < len(dsn) {
				i++
			}
			value.WriteByte(dsn[i])
			i++
		}
		if quoted {
			if i == len(dsn) {
				break
			}
			i++
		}
		s.value, s.to = value.String(), i
		parts.settings = append(parts.settings, s)
	}
	return parts
}

// without returns the DSN without the settings marked in own. With each goes
// one separator, so that the rest is what it would be had they never been put
// in, and a "?" goes when nothing is left behind it.
func (d dsnParts) without(own []bool) string {
	if !slices.Contains(own, true) {
		return d.dsn
	}
	if d.keywords {
		return d.withoutKeywords(own)
	}
	var kept []string
	for i, s := range d.settings {
		if !own[i] {
			kept = append(kept, d.dsn[s.from:s.to])
		}
	}
	if len(kept) == 0 {
		return d.dsn[:d.query] + d.dsn[d.end:]
	}
	return d.dsn[:d.query+1] + strings.Join(kept, "&") + d.dsn[d.end:]
}

// withoutKeywords takes the space before a setting out with it, and the space
// after it as long as nothing stands before. A setting that another one follows
// without space (after a quote that is allowed) leaves its own space to that one.
func (d dsnParts) withoutKeywords(own []bool) string {
	var b strings.Builder
	done := 0        // text up to here is copied or dropped
	leading := true  // nothing but dropped settings so far
	previousEnd := 0 // of the setting before, kept or dropped
	for i, s := range d.settings {
		next := len(d.dsn)
		if i+1 < len(d.settings) {
			next = d.settings[i+1].from
		} else if rest := d.dsn[s.to:]; strings.Trim(rest, space) != "" {
			next = s.to + len(rest) - len(strings.TrimLeft(rest, space))
		}
		switch {
		case !own[i]:
			leading = false
		case leading:
			b.WriteString(d.dsn[done:s.from])
			done = next
		case next == s.to && next < len(d.dsn):
			b.WriteString(d.dsn[done:s.from])
			done = s.to
		default:
			b.WriteString(d.dsn[done:previousEnd])
			done = s.to
		}
		previousEnd = s.to
	}
	b.WriteString(d.dsn[done:])
	return b.String()
}

// driverNames are the parameters that drivers and servers know and that are
// within two edits of one of lifeguard's. Everything else they know is further
// off: lib/pq 1.12 (its Config), pgx 5.12 (pgconn, pgx and pgxpool, so
// pool_max_conns, statement_cache_capacity), libpq 18, go-sql-driver/mysql 1.10,
// modernc.org/sqlite 1.61, mattn/go-sqlite3 1.14, ncruces/go-sqlite3 0.37, and
// the run-time parameters of PostgreSQL 18, MySQL 8 and MariaDB 10.11, which
// reach the server through the DSN.
var driverNames = []string{
	"max_connections", // PostgreSQL, MySQL; two from min_connections
}

// misspelt returns the parameter that name was meant to be: the nearest of those
// at most two edits away, where case does not count as one. It returns "" if
// there is none, or if a driver or a server knows name.
func misspelt(name string) string {
	name = strings.ToLower(name)
	if slices.Contains(driverNames, name) {
		return ""
	}
	meant, nearest := "", 3
	for i := range parameters {
		if n := edits(name, parameters[i].name); n < nearest {
			meant, nearest = parameters[i].name, n
		}
	}
	return meant
}

// edits returns how many insertions, deletions, substitutions and swaps of
// neighbours turn a into b (Damerau-Levenshtein distance, no piece edited
// twice), or 3 for more than two.
func edits(a, b string) int {
	if len(a) > len(b)+2 || len(b) > len(a)+2 {
		return 3
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			substitution := last[j]
			if a[i] != b[j] {
				substitution++
			}
			row[j+1] = min(substitution, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], 3)
}

// target is where a DSN leads, for names and telemetry. Fields that cannot be
// told for certain are empty.
type target struct {
	system   string // db.system.name of OpenTelemetry: postgresql, mysql, sqlite or other_sql
	host     string // name, address without brackets, or path of a Unix socket; the first of several
	port     string
	database string // a file's base name for an embedded database
	driver   string // the name the driver is registered under
}

// poolName returns host:port/database, without the parts that are not known,
// or the driver's name if none is. It is at most as long as pool_name may be.
func (t target) poolName() string {
	name := t.host
	if t.port != "" {
		name = net.JoinHostPort(t.host, t.port)
	}
	switch {
	case name == "":
		name = t.database
	case t.database != "":
		name += "/" + t.database
	}
	for _, s := range []string{t.driver, t.system, "database"} {
		if name == "" && isLabel(s) {
			name = s
		}
	}
	for len(name) > maxPoolName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = strings.TrimSpace(name[:len(name)-size])
	}
	return name
}

// dsnTarget finds where the wrapped driver's DSN leads. The driver's name says
// how to read it; under a name that tells nothing, its form does. What looks as
// if a password could be mixed into it gives no address at all.
func dsnTarget(driverName, driverDSN string) target {
	t := target{system: systemOf(driverName, driverDSN), driver: driverName}
	var found target
	switch t.system {
	case "postgresql":
		found = postgresTarget(driverName, driverDSN)
	case "mysql":
		found = mysqlTarget(driverDSN)
	case "sqlite":
		found = sqliteTarget(driverDSN)
	}
	for _, s := range []string{found.host, found.port, found.database} {
		if s != "" && !isLabel(s) {
			return t
		}
	}
	if strings.Trim(found.port, "0123456789") != "" {
		return t
	}
	t.host, t.port, t.database = found.host, found.port, found.database
	return t
}

// isLabel reports whether s may be shown as a name. The characters it refuses
// are those by which an unknown syntax would separate a password.
func isLabel(s string) bool {
	return s != "" && len(s) <= maxPoolName && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		strings.IndexFunc(s, isUnprintable) < 0 && !strings.ContainsAny(s[1:], "@") && !strings.ContainsAny(s, `=;&?"'`)
}

func systemOf(driverName, dsn string) string {
	name := strings.ToLower(driverName)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(name, w) })
	}
	switch {
	case has("postgres", "pgx") || name == "pq":
		return "postgresql"
	case has("mysql", "mariadb"):
		return "mysql"
	case has("sqlite"):
		return "sqlite"
	}

	if keywordStart.MatchString(dsn) {
		for _, s := range splitKeywords(dsn).settings {
			if slices.Contains([]string{"host", "hostaddr", "dbname", "sslmode"}, s.name) {
				return "postgresql"
			}
		}
		return "other_sql"
	}
	switch scheme := urlScheme(dsn); {
	case scheme == "postgres" || scheme == "postgresql":
		return "postgresql"
	case scheme == "mysql" || scheme == "mariadb":
		return "mysql"
	case scheme != "" && scheme != "file":
		return "other_sql"
	}
	path, _, _ := strings.Cut(dsn, "?")
	switch {
	case mysqlForm.MatchString(dsn):
		return "mysql"
	case strings.HasPrefix(strings.ToLower(dsn), "file:"), path == ":memory:", sqliteFile.MatchString(path):
		return "sqlite"
	}
	return "other_sql"
}

var (
	networkName = regexp.MustCompile(`^[A-Za-z0-9+._-]+$`)
	sqliteFile  = regexp.MustCompile(`(?i)\.(db|db3|sqlite|sqlite3)$`)
)

// postgresTarget follows lib/pq: the DSN, then the environment, then localhost,
// port 5432 and the user's own database. A service stands for a file that may
// say anything, so with one only the DSN counts.
func postgresTarget(driverName, dsn string) target {
	given := map[string]string{}
	var settings []setting
	if urlScheme(dsn) != "" {
		shape := splitURL(dsn)
		user, t, ok := shape.target()
		if !ok {
			return target{}
		}
		if _, more, _ := strings.Cut(shape.hosts(), ","); more != "" && t.port == "" && !strings.Contains(strings.ToLower(driverName), "pgx") {
			// A port behind the last host is that host's in libpq, and everyone's
			// in lib/pq.
			_, t.port, _ = cutHost(more[strings.LastIndexByte(more, ',')+1:])
		}
		given["user"], given["host"], given["port"], given["dbname"] = user, t.host, t.port, t.database
		settings = shape.parts.settings
	} else {
		parts := splitKeywords(dsn)
		settings = parts.settings
		read := 0
		if len(settings) > 0 {
			read = settings[len(settings)-1].to
		}
		if strings.Trim(dsn[read:], space) != "" {
			return target{} // no keyword string, or a broken one
		}
	}
	for _, s := range settings {
		name := s.name
		if name == "database" { // an alias in both drivers
			name = "dbname"
		}
		if s.value != "" {
			given[name] = s.value
		}
	}

	if given["service"] != "" || os.Getenv("PGSERVICE") != "" {
		return target{host: firstOf(given["host"]), port: firstOf(given["port"]), database: given["dbname"]}
	}
	t := target{
		host: cmp.Or(firstOf(cmp.Or(given["host"], given["hostaddr"], os.Getenv("PGHOST"), os.Getenv("PGHOSTADDR"))),
			"localhost"),
		port:     cmp.Or(firstOf(cmp.Or(given["port"], os.Getenv("PGPORT"))), "5432"),
		database: cmp.Or(given["dbname"], os.Getenv("PGDATABASE"), given["user"], os.Getenv("PGUSER"), os.Getenv("USER")),
	}
	if t.database == "" {
		if u, err := user.Current(); err == nil {
			t.database = u.Username
		}
	}
	return t
}

// firstOf returns the first item of a comma-separated list.
func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return first
}

// hosts returns the text between password and path.
func (s urlShape) hosts() string { return s.parts.dsn[s.hostAt:s.pathAt] }

// target returns the user, and the first host with its port and the path, all
// decoded. ok is false if that cannot be done, or if a password may be mixed in.
func (s urlShape) target() (user string, t target, ok bool) {
	dsn := s.parts.dsn
	if s.hostAt > s.userAt {
		user, _, _ = strings.Cut(dsn[s.userAt:s.hostAt-1], ":")
	}
	t.host, t.port, ok = cutHost(firstOf(s.hosts()))
	end := s.parts.end
	if s.parts.query >= 0 {
		end = s.parts.query
	}
	t.database = strings.TrimPrefix(dsn[s.pathAt:end], "/")
	for _, text := range []*string{&user, &t.host, &t.database} {
		plain, err := url.PathUnescape(*text)
		ok = ok && err == nil
		*text = plain
	}
	return user, t, ok && !s.parts.ambiguous
}

// cutHost splits a host, host:port or [IPv6]:port.
func cutHost(text string) (host, port string, ok bool) {
	if inner, found := strings.CutPrefix(text, "["); found {
		host, text, found = strings.Cut(inner, "]")
		if !found {
			return "", "", false
		}
		if text == "" {
			return host, "", true
		}
		port, found = strings.CutPrefix(text, ":")
		return host, port, found
	}
	host, port, _ = strings.Cut(text, ":")
	return host, port, true
}

// mysqlTarget reads [user[:password]@][net[(address)]]/database[?…] as
// go-sql-driver/mysql does, and mysql:// URLs of other drivers.
func mysqlTarget(dsn string) target {
	if keywordStart.MatchString(dsn) {
		return target{} // password=… of some other system
	}
	if urlScheme(dsn) != "" {
		if _, t, ok := splitURL(dsn).target(); ok && t.host != "" {
			t.port = cmp.Or(t.port, "3306")
			return t
		}
		return target{}
	}

	slash := strings.LastIndexByte(dsn, '/')
	if slash < 0 {
		return target{}
	}
	if later, _ := lastHost(dsn, slash); later >= 0 {
		return target{} // a part of the password may stand before that "@"
	}
	address := dsn[strings.LastIndexByte(dsn[:slash], '@')+1 : slash]
	network, address, found := strings.Cut(address, "(")
	if found {
		if address, found = strings.CutSuffix(address, ")"); !found {
			return target{}
		}
	}
	path, _, _ := strings.Cut(dsn[slash+1:], "?")
	database, err := url.PathUnescape(path)
	if err != nil {
		return target{}
	}
	t := target{host: address, database: database}
	switch network = cmp.Or(network, "tcp"); {
	case !networkName.MatchString(network):
		return target{}
	case network == "tcp":
		host, port, ok := cutHost(cmp.Or(address, "127.0.0.1"))
		if !ok {
			return target{}
		}
		t.host, t.port = host, cmp.Or(port, "3306")
	case network == "unix":
		t.host = cmp.Or(address, "/tmp/mysql.sock")
	case address == "":
		// The driver refuses a network of its user's own without an address, and
		// the word may be the front of a password.
		return target{}
	default:
		if host, port, err := net.SplitHostPort(address); err == nil && isDigits(port) {
			t.host, t.port = host, port
		}
	}
	return t
}

// sqliteTarget returns the base name of the file.
func sqliteTarget(dsn string) target {
	path, _, _ := strings.Cut(dsn, "?")
	if !pathStart.MatchString(dsn) && strings.Contains(path, ":") && strings.Contains(dsn, "@") ||
		keywordStart.MatchString(dsn) {
		return target{} // user:password@… or password=… of some other system
	}
	if len(path) >= 5 && strings.EqualFold(path[:5], "file:") {
		path, _, _ = strings.Cut(path[5:], "#")
		plain, err := url.PathUnescape(path)
		if err != nil {
			return target{}
		}
		path = plain
	}
	return target{database: path[strings.LastIndexAny(path, `/\`)+1:]}
}
