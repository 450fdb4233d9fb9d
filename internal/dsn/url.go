package dsn

import (
	"net/url"
	"regexp"
	"strings"
)

var (
	urlStart = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

	// hostList matches what can follow a user and password in a URL, or stand
	// there without them: hosts with numeric ports, [IPv6], net(address).
	hostList = regexp.MustCompile(`^` + hostPort + `(,` + hostPort + `)*$`)
)

// hostPort does not match a colon with no port behind it. Drivers allow that, but
// before a "/" or "?" and an "@" it more probably ends a user name.
const hostPort = `(\[[^\[\]]*\]|[^:,\[\]()]*(\([^()]*\))?)(:[0-9]+)?`

// percentEncode is the remedy for a URL that can be read in two ways.
const percentEncode = `write the password percent-encoded ("?" as %3F, "&" as %26, "/" as %2F, "@" as %40), ` +
	`and an "@" in a parameter's value as %40`

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
	parts  Parts
	userAt int // start of user:password@, if there is one
	hostAt int // start of the hosts
	pathAt int // start of what follows them
}

// splitURL finds the authority and the query part of a URL.
//
// The authority ends at the first "/", "?" or "#", and the password at the last
// "@" in it. The query starts at the first "?" after the authority and ends at a
// "#". RFC 3986, lib/pq, pgx and the drivers of other databases agree on that.
//
// A password that was not percent-encoded breaks this rule when it has one of
// these characters. It leaves an authority that cannot be a host (user:pa, with
// the rest of the password behind a "?"), and an "@" further on. Then the
// password ends at the last "@" that a host can follow. libpq and pgx read such
// passwords with "?" too.
//
// Both readings are possible in postgres://u:p@x?a=b@h/db. The "@" in the would-be
// query decides if the authority has a colon and ends with "?", and a path or a
// query follows the second host. Otherwise the RFC decides, and settings that may
// be a part of the password are doubtful.
func splitURL(dsn string) urlShape {
	start := len(urlStart.FindString(dsn))
	s := urlShape{userAt: start, hostAt: start, pathAt: indexAny(dsn, start, "/?#"), parts: Parts{dsn: dsn}}
	if at := strings.LastIndexByte(dsn[start:s.pathAt], '@'); at >= 0 {
		s.hostAt = start + at + 1
	}
	doubtful := 0 // settings before this place are
	later := strings.Contains(dsn[s.pathAt:], "@")
	host, end := lastHost(dsn, s.pathAt)
	switch {
	case !later:
	case !hostList.MatchString(dsn[s.hostAt:s.pathAt]):
		if host < 0 {
			host = strings.LastIndexByte(dsn, '@') + 1
			end = indexAny(dsn, host, "/?#")
		}
		s.hostAt, s.pathAt = host, end
	case host < 0:
	default:
		s.parts.Ambiguous = true
		more := end < len(dsn) && dsn[end] != '#'
		if more && dsn[s.pathAt] == '?' && strings.Contains(dsn[start:s.pathAt], ":") {
			s.hostAt, s.pathAt = host, end
		} else if more {
			doubtful = host
			s.parts.Remedy = percentEncode
		}
	}

	s.parts.splitQuery(s.pathAt, indexAny(dsn, s.pathAt, "#"))
	for i := range s.parts.Settings {
		s.parts.Settings[i].Doubtful = s.parts.Settings[i].from < doubtful
	}
	return s
}

// indexAny returns the place of the first of chars at or after from, or the
// length of text.
func indexAny(text string, from int, chars string) int {
	if i := strings.IndexAny(text[from:], chars); i >= 0 {
		return from + i
	}
	return len(text)
}

// lastHost returns the start and end of the last text at or after from that
// follows an "@" and can be a host or a list of them, up to a "/", "?", "#" or the
// end of dsn. It returns -1 if there is none.
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

// hostEnd returns the end of the host, or net(address), that starts at from: the
// first character outside of parentheses that no host has.
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

// userinfo returns the text before the "@", with the password as it is written.
func (s urlShape) userinfo() string {
	if s.hostAt == s.userAt {
		return ""
	}
	return s.parts.dsn[s.userAt : s.hostAt-1]
}

// hosts returns the text between the password and the path.
func (s urlShape) hosts() string { return s.parts.dsn[s.hostAt:s.pathAt] }

// target returns the user, and the first host with its port and the path, all
// decoded. ok is false if they cannot be decoded, or if a password may be mixed in.
func (s urlShape) target() (user string, t Target, ok bool) {
	user, _, _ = strings.Cut(s.userinfo(), ":")
	t.Host, t.Port, ok = cutHost(firstOf(s.hosts()))
	end := s.parts.end
	if s.parts.head >= 0 {
		end = s.parts.head
	}
	t.Database = strings.TrimPrefix(s.parts.dsn[s.pathAt:end], "/")
	for _, text := range []*string{&user, &t.Host, &t.Database} {
		plain, err := url.PathUnescape(*text)
		ok = ok && err == nil
		*text = plain
	}
	return user, t, ok && !s.parts.Ambiguous
}

// firstOf returns the first item of a comma-separated list.
func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ",")
	return first
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
