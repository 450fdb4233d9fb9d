package lifeguard

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
)

// redactor keeps the DSN out of errors: drivers quote it, in whole or in part, when they cannot read it.
type redactor struct{ secrets []string }

// minSecret is the length from which a piece of the DSN counts as a secret when it turns up in an error. Shorter ones
// would be found in every text by chance.
const minSecret = 3

// secretSetting finds what looks like a setting that holds a secret, in whatever syntax: a keyword or a parameter, with a
// value in quotes, with escapes, or up to the next separator.
var secretSetting = regexp.MustCompile(
	`(?i)([a-z_]*(?:pass|pwd|secret|token|key)[a-z_]*)[ \t\n]*=[ \t\n]*('(?:[^'\\]|\\.)*|"[^"]*|(?:[^ \t\n;&\\]|\\.)*)`)

// namesSecret says whether a setting of that name holds a secret. Some of similar names hold the path of a file, and an
// error about that has to be shown.
func namesSecret(name string) bool {
	switch name = strings.ToLower(name); name {
	case "passfile", "sslkey", "tls-key":
		return false
	}
	for _, word := range []string{"pass", "pwd", "secret", "token"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return strings.HasSuffix(name, "key")
}

// newRedactor collects what in dsn may be a password. It errs on the side of too much: a text that is withheld though
// it was harmless costs less than the other mistake.
func newRedactor(dsn string) redactor {
	var r redactor
	public := publicParts(dsn)
	add := func(s string) {
		switch {
		case len(s) < minSecret:
		case public[s]:
			// postgres:postgres@postgres/postgres is what many have at home. An error that names the user or the host has
			// to be shown; only where the word stands as the password does it give it away.
			r.secrets = append(r.secrets, ":"+s, "="+s, "='"+s)
		default:
			r.secrets = append(r.secrets, s)
		}
	}
	if len(dsn) >= minSecret {
		r.secrets = append(r.secrets, dsn)
	}
	// user:password@ in URLs and in the form of the MySQL driver
	if at := strings.LastIndexByte(dsn, '@'); at >= 0 {
		user := dsn[:at]
		if i := strings.Index(user, "://"); i >= 0 {
			user = user[i+3:]
		}
		if _, password, ok := strings.Cut(user, ":"); ok {
			add(password)
			if plain, err := url.PathUnescape(password); err == nil && plain != password {
				add(plain)
			}
			// A parser that stumbles inside the password shows the part up to or from there.
			for _, piece := range strings.FieldsFunc(password, func(c rune) bool { return strings.ContainsRune("/?#:@%[] ", c) }) {
				add(piece)
			}
		}
	}
	parts := splitDSN(dsn)
	for _, s := range parts.settings {
		if namesSecret(s.name) {
			add(s.value)
		}
	}
	for _, m := range secretSetting.FindAllStringSubmatch(dsn, -1) {
		if !namesSecret(m[1]) {
			continue
		}
		value := strings.TrimLeft(m[2], `'"`)
		add(value)
		if plain, err := url.QueryUnescape(value); err == nil && plain != value {
			add(plain)
		}
		add(strings.ReplaceAll(value, `\`, ""))
	}
	return r
}

// publicParts are the words of a DSN that errors may show: user, host and database, whatever the syntax.
func publicParts(dsn string) map[string]bool {
	public := map[string]bool{}
	add := func(words ...string) {
		for _, w := range words {
			public[w] = true
		}
	}
	if urlScheme(dsn) != "" {
		user, t, _ := splitURL(dsn).target()
		add(user, t.host, t.database)
	} else if user, _, ok := strings.Cut(dsn, ":"); ok && mysqlForm.MatchString(dsn) {
		t := mysqlTarget(dsn)
		add(user, t.host, t.database)
	}
	for _, s := range splitDSN(dsn).settings {
		switch s.name {
		case "user", "host", "hostaddr", "dbname", "database", "application_name":
			add(s.value)
		}
	}
	return public
}

func (r redactor) shows(text string) bool {
	for _, s := range r.secrets {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// connectError is err as it may be shown: unchanged unless it quotes the DSN.
func (r redactor) connectError(err error) error {
	var bad *url.Error
	if errors.As(err, &bad) || r.shows(err.Error()) {
		return errors.New("the driver's error is withheld because it quotes the DSN; " +
			"if the password has special characters, write them as %XX in a URL, or in quotes after password=")
	}
	return err
}
