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

// Drivers quote what they were given. The password is in no error and in no line of the log, in whatever syntax the DSN
// has it.
func TestDriversThatQuoteThePassword(t *testing.T) {
	for _, tt := range []struct{ dsn, secret string }{
		{"postgres://u:hunter2@h/db", "hunter2"},
		{"postgres://u:hunter2@h1,h2/db", "hunter2"},
		{"postgres://u:hu%3Anter2@h/db", "hu:nter2"},
		{"postgres://u:p%40ss%2Fword@h/db", "p@ss/word"},
		{"postgres://h/db?user=u&password=hunter2", "hunter2"},
		{"postgres://h/db?user=u&password=hun%26ter2", "hun&ter2"},
		{"postgres://h/db?user=u&pass%77ord=hunter2", "hunter2"},
		{"postgres://u@h/db?sslpassword=hunter2", "hunter2"},
		{"host=h password='hun ter2'", "hun ter2"},
		{`host=h password = 'hun\'ter2'`, "hun'ter2"},
		{`host=h password=hun\'ter2`, "hun'ter2"},
		{`host=h password=hun\ ter2 user=x`, "hun ter2"},
		{"host=h PASSWORD=hunter2", "hunter2"},
		{"u:hunter2@tcp(h)/db", "hunter2"},
		{"u:hun/te@r2@tcp(h)/db", "hun/te@r2"},
		{"u:hun:ter2@tcp(h)/db?x=y", "hun:ter2"},
		{"server=h;user id=sa;Password=hunter2;x=y", "hunter2"},
		{"server=h;user id=sa;pwd=hunter2", "hunter2"},
		{"file:x.db?_key=hunter2", "hunter2"},
		{"file:x.db?_auth_pass=hunter2&_auth_user=x", "hunter2"},
		{"postgres://db:db0@db0/db0", "db:db0@"},
		{"hunter2", "hunter2"},
		{"hunter2:x", "hunter2:x"},
		{"host=db0 user=u password=db0", "password=db0"},
		{"host=db0 user=u password='db0'", "password='db0'"},
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
		{"postgres://app:shop@h/shop", `database "shop" does not exist`},
		{"user=app password=app host=h", `role "app" does not exist`},
		{"root:root@tcp(db)/shop", `Access denied for user 'root'@'db'`},
		{"postgres://u:hunter2@h/db?sslkey=/etc/key.pem&passfile=/etc/pgpass", "cannot read /etc/key.pem and /etc/pgpass"},
	} {
		_, err := askRefusing(t, tt.dsn, &pq.Error{Code: "28000", Message: tt.text})
		assert.ErrorContains(t, err, tt.text, tt.dsn)
		var typed *pq.Error
		assert.ErrorAs(t, err, &typed, tt.dsn)
		assert.False(t, strings.Contains(fmt.Sprint(err), "withheld"), tt.dsn)
	}
}
