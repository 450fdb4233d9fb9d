package lifeguard_test

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A refusing driver opens nothing, and says why.
type refusingDriver struct{ err error }

func (d refusingDriver) Open(string) (driver.Conn, error) {
	var crash panicking
	if errors.As(d.err, &crash) {
		panic(crash.Error())
	}
	return nil, d.err
}

type panicking struct{ error }

// askRefusing opens a handle on dsn with a driver that answers with told, and gives all that can be seen of that, the text of
// the error and of everything in it and the log, and the error.
func askRefusing(t *testing.T, dsn string, told error) (seen string, err error) {
	t.Helper()
	name := fmt.Sprint("refusing ", pooltest.Number())
	synctest.Test(t, func(t *testing.T) {
		log := &pooltest.LogBuffer{}
		lifeguard.Register(name, refusingDriver{told}, lifeguard.WithLogger(slog.New(slog.NewTextHandler(log, nil))))
		db, openErr := sql.Open(name, dsn)
		require.NoError(t, openErr)
		func() {
			defer func() {
				if v := recover(); v != nil {
					err = errors.New("panicked, as the driver did")
				}
			}()
			err = db.PingContext(t.Context())
		}()
		synctest.Wait()
		require.NoError(t, db.Close())
		for e := err; e != nil; e = errors.Unwrap(e) {
			seen += fmt.Sprintf("%v %+v\n", e, e)
		}
		seen += log.String()
	})
	return seen, err
}

// Drivers quote what they were given. The password is in no error of a checkout and in no line of the log.
func TestDriversThatQuoteThePassword(t *testing.T) {
	for _, tt := range []struct{ dsn, secret string }{
		{"postgres://u:hunter2@h/db", "hunter2"},
		{"host=h password='hun ter2'", "hun ter2"},
		{"u:hunter2@tcp(h)/db", "hunter2"},
		{"server=h;user id=sa;Password=hunter2;x=y", "hunter2"},
	} {
		for _, told := range []error{
			fmt.Errorf("cannot log in with %s", tt.secret),
			&pq.Error{Severity: "FATAL", Code: "28P01", Message: "no such " + tt.secret},
			&pq.Error{Severity: "FATAL", Code: "53300", Message: "wait, " + tt.secret},
			panicking{errors.New("mad at " + tt.secret)},
		} {
			seen, err := askRefusing(t, tt.dsn, told)
			require.Error(t, err)
			assert.NotContains(t, seen, tt.secret, tt.dsn)
		}
	}
}

// An error that names what is no secret is shown, with its type, also where the password happens to be the same word.
func TestErrorsThatQuoteNoPassword(t *testing.T) {
	for _, tt := range []struct{ dsn, text string }{
		{"postgres://postgres:postgres@postgres/postgres", `password authentication failed for user "postgres"`},
	} {
		_, err := askRefusing(t, tt.dsn, &pq.Error{Code: "28000", Message: tt.text})
		assert.ErrorContains(t, err, tt.text, tt.dsn)
		var typed *pq.Error
		assert.ErrorAs(t, err, &typed, tt.dsn)
		assert.False(t, strings.Contains(fmt.Sprint(err), "withheld"), tt.dsn)
	}
}

// A malformed DSN is refused at Open, with the kind of the mistake and without the DSN.
func TestMalformedDSN(t *testing.T) {
	for dsn, kind := range map[string]string{
		"postgres://u:hunter2@h/db\n?connection_limit=5": "a control character",
		"postgres://u:hunter%@h/db?connection_limit=5":   "a percent sign",
		"host=h password=my hunter2 connection_limit=5":  `a word without "="`,
	} {
		_, openErr := sql.Open("lifeguard", dsn)
		require.ErrorContains(t, openErr, kind)
		assert.NotContains(t, openErr.Error(), "hunter")
	}
}
