package lifeguard

import (
	"errors"
	"net/url"
	"strings"
)

// redactor keeps the DSN out of errors: drivers quote it, in whole or in part, when they cannot read it.
type redactor struct{ secrets []string }

// minSecret is the length from which a piece of the DSN counts as a secret when it turns up in an error. Shorter ones
// would be found in every text by chance.
const minSecret = 3

// newRedactor collects what in dsn may be a password. It errs on the side of too much: a text that is withheld though
// it was harmless costs less than the other mistake.
func newRedactor(dsn string) redactor {
	var r redactor
	add := func(s string) {
		if len(s) >= minSecret {
			r.secrets = append(r.secrets, s)
		}
	}
	add(dsn)
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
	// password=… as a keyword or a parameter
	for rest := dsn; ; {
		i := strings.Index(rest, "password")
		if i < 0 {
			break
		}
		rest = rest[i+len("password"):]
		value, ok := strings.CutPrefix(strings.TrimLeft(rest, " \t\n"), "=")
		if !ok {
			continue
		}
		value = strings.TrimLeft(value, " \t\n")
		if quoted, ok := strings.CutPrefix(value, "'"); ok {
			end := 0
			for end < len(quoted) && quoted[end] != '\'' {
				if quoted[end] == '\\' {
					end++
				}
				end++
			}
			add(strings.ReplaceAll(quoted[:min(end, len(quoted))], `\`, ""))
			add(quoted[:min(end, len(quoted))])
			continue
		}
		if end := strings.IndexAny(value, " \t\n&"); end >= 0 {
			value = value[:end]
		}
		add(value)
		if plain, err := url.QueryUnescape(value); err == nil && plain != value {
			add(plain)
		}
	}
	return r
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
		return &connectError{text: "the driver's error is withheld because it quotes the DSN; " +
			"if the password has special characters, write them as %XX in a URL, or in quotes after password="}
	}
	return err
}
