package dsn

import "strings"

// mistakeIn returns what in dsn stops most drivers from reading it, and what to do,
// or "". It quotes nothing of dsn.
//
// A driver's own error cannot be used for that: it quotes the place of the mistake,
// and the mistake is usually in the password.
func mistakeIn(dsn string) string {
	if _, ok := splitSemicolons(dsn); ok {
		return ""
	}
	if keywordStart.MatchString(dsn) {
		if splitKeywords(dsn).unread() != "" {
			return `a word without "=" or a quote without its partner: put a value with spaces in single quotes, ` +
				`and write ' as \' and \ as \\ in it`
		}
		return ""
	}
	if urlScheme(dsn) != "" {
		return mistakeInURL(dsn)
	}
	if bare := strings.TrimLeft(dsn, space+`"'`); bare != dsn && urlScheme(bare) != "" {
		return "white space or quotes before its scheme: remove them"
	}
	return ""
}

func mistakeInURL(dsn string) string {
	if strings.ContainsFunc(dsn, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "a control character, such as a line break at its end: remove it, or write it as %XX"
	}
	s := splitURL(dsn)
	authority := dsn[s.userAt:s.pathAt]
	if hasBarePercent(dsn[:s.parts.end]) {
		return "a percent sign without two hexadecimal digits behind it: write % as %25"
	}
	// What net/url takes in a user name and password. The other characters end the
	// authority there, or are refused.
	const allowed = "-._:~!$&'()*+,;=%@" +
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if strings.ContainsFunc(s.userinfo(), func(r rune) bool { return !strings.ContainsRune(allowed, r) }) {
		return "a character in its user name or password that has to be written as %XX"
	}
	if strings.ContainsAny(authority, "()") {
		return "" // net(address), which is no URL of net/url's
	}
	for host := range strings.SplitSeq(s.hosts(), ",") {
		name, port, ok := cutHost(host)
		switch {
		case !ok:
			return "an address with [ and without ], or with more than a port behind it"
		case port != "" && !isDigits(port):
			return "a port that is not a number; if it is a part of the password, write its special characters as %XX"
		case strings.ContainsAny(name, " \"<>\\^`{|}"):
			return "a character in its host that no host has"
		case !strings.HasPrefix(host, "[") && strings.Contains(name, "%"):
			return "an escape in its host, which is refused in URLs: write the host behind the ?, as host="
		}
	}
	return ""
}

// hasBarePercent reports whether a "%" in text does not begin an escape.
func hasBarePercent(text string) bool {
	for {
		_, rest, found := strings.Cut(text, "%")
		if !found {
			return false
		}
		if len(rest) < 2 || strings.Trim(rest[:2], "0123456789abcdefABCDEF") != "" {
			return true
		}
		text = rest[2:]
	}
}
