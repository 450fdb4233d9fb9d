package dsn

import (
	"errors"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Redactor keeps the secrets of one DSN out of errors. Drivers quote a DSN, in whole
// or in part, when they cannot read it. The zero Redactor knows no secret. A Redactor
// is safe for concurrent use.
type Redactor struct {
	secrets []string
	mistake string // see mistakeIn
}

// minSecret is the length from which a piece of the DSN counts as a secret. Shorter
// ones would be found in every text by chance.
const minSecret = 3

// secretSetting matches settings whose names sound like a secret, in whatever
// syntax: with a value in quotes, with escapes, or up to the next separator.
var secretSetting = regexp.MustCompile(
	`(?i)([a-z_]*(?:pass|pwd|secret|token|key)[a-z_]*)[ \t\n]*=[ \t\n]*('(?:[^'\\]|\\.)*|"[^"]*|(?:[^ \t\n;&\\]|\\.)*)`)

// NewRedactor collects what in dsn may be a password. It errs on the side of too
// much: a harmless text that is withheld costs less than a password that is shown.
func NewRedactor(dsn string) Redactor {
	r := Redactor{mistake: mistakeIn(dsn)}
	r.add(dsn)
	public := publicParts(dsn)
	add := func(s string) {
		if public[s] && len(s) >= minSecret {
			// postgres:postgres@postgres/postgres is common at home. Errors that name
			// the user or the host must be shown, so the word counts only where it
			// stands as the password.
			r.secrets = append(r.secrets, ":"+s, "="+s, "='"+s)
			return
		}
		r.add(s)
	}
	addPassword(dsn, add)
	addSettings(dsn, add)
	return r
}

// add adds a secret as it is, and as %q shows it before and after a parser that reads
// rune by rune.
func (r *Redactor) add(secret string) {
	if len(secret) < minSecret {
		return
	}
	r.secrets = append(r.secrets, secret)
	for _, text := range []string{secret, string([]rune(secret))} {
		if quoted := strings.Trim(strconv.Quote(text), `"`); quoted != secret {
			r.secrets = append(r.secrets, quoted)
		}
	}
}

// addPassword adds the password before an "@", in URLs and in the MySQL driver's
// form, with its pieces: a parser that stumbles inside it shows the text up to
// there, or from there. A MySQL password may begin with "//", so both readings of
// "://" count.
func addPassword(dsn string, add func(string)) {
	front := dsn[:max(strings.LastIndexByte(dsn, '@'), 0)]
	_, afterScheme, _ := strings.Cut(front, "://")
	for _, user := range []string{front, afterScheme} {
		_, password, _ := strings.Cut(user, ":")
		add(password)
		if plain, err := url.PathUnescape(password); err == nil && plain != password {
			add(plain)
		}
		if user == front && urlScheme(dsn) != "" {
			continue // its pieces are hosts and users as well
		}
		ends := func(c rune) bool { return c < ' ' || strings.ContainsRune("/?#:@%[] ", c) }
		for _, piece := range strings.FieldsFunc(password, ends) {
			add(piece)
		}
	}
}

// addSettings adds the values of settings that hold a secret, and the words of a
// keyword string behind the place where it breaks the rules.
func addSettings(dsn string, add func(string)) {
	parts := Split(dsn)
	for _, s := range parts.Settings {
		if namesSecret(s.Name) {
			add(s.Value)
			for _, word := range strings.Fields(s.Value) {
				add(word) // another driver's parser may stumble at the space
			}
		}
	}
	if parts.keywords {
		ends := func(c rune) bool { return strings.ContainsRune(space+"='", c) }
		for _, piece := range strings.FieldsFunc(parts.unread(), ends) {
			add(piece)
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
}

// namesSecret reports whether a setting of that name holds a secret. Some of similar
// names hold the path of a file, and an error about that has to be shown.
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

// publicParts returns the words of a DSN that errors may show: user, host and
// database, whatever the syntax.
func publicParts(dsn string) map[string]bool {
	public := map[string]bool{}
	add := func(words ...string) {
		for _, w := range words {
			public[w] = true
		}
	}
	if urlScheme(dsn) != "" {
		user, t, _ := splitURL(dsn).target()
		add(user, t.Host, t.Database)
	} else if user, _, ok := strings.Cut(dsn, ":"); ok && mysqlForm.MatchString(dsn) {
		t := mysqlTarget(dsn)
		add(user, t.Host, t.Database)
	}
	for _, s := range Split(dsn).Settings {
		switch strings.ToLower(s.Name) {
		case "user", "host", "hostaddr", "dbname", "database", "application_name",
			"user id", "uid", "server", "data source", "initial catalog", "app name":
			add(s.Value)
		}
	}
	return public
}

func (r Redactor) shows(text string) bool {
	for _, s := range r.secrets {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// Error returns err as it may be shown: err itself, or if it quotes the DSN an error
// that says so, names the mistake in the DSN if there is one, and wraps nothing.
func (r Redactor) Error(err error) error {
	var bad *url.Error
	if err == nil || !errors.As(err, &bad) && !r.shows(err.Error()) {
		return err
	}
	if r.mistake != "" {
		return errors.New("the driver's error is withheld because it quotes the DSN, which has " + r.mistake)
	}
	return errors.New("the driver's error is withheld because it quotes the DSN; " +
		"if the password has special characters, write them as %XX in a URL, or in quotes after password=")
}
