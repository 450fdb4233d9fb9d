package docstest

import (
	"database/sql"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
	"github.com/go-lifeguard/lifeguard/internal/mariatest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// substitutes are what a page's commands get in the place of servers and ports that a test cannot have.
type substitutes struct {
	postgres string            // host:port/database
	admin    string            // the URL of the same for a superuser
	maria    string            // user:password@tcp(host:port)/database, if the page has one
	ports    map[string]string // of localhost: the page's, and ours at the moment
	pages    map[string]string // ours, and the page's
	scratch  string
}

const (
	pagePostgres = "localhost:5432/shop"
	pageMaria    = "app:secret@tcp(localhost:3306)/shop"
)

var (
	localPort = regexp.MustCompile(`localhost:(\d{4,5})\b`)
	servePort = regexp.MustCompile(`<!-- check: serve (\d+)`)
	binFolder = regexp.MustCompile(`(^|[\s='">(])bin/`)
	mariaDSN  = regexp.MustCompile(`^(.*?):(.*)@tcp\((.*):(\d+)\)/(.*)$`)
)

// substitutesFor makes what the text of a page needs.
func substitutesFor(t *testing.T, text, scratch string) *substitutes {
	t.Helper()
	s := &substitutes{ports: map[string]string{}, pages: map[string]string{}, scratch: scratch}
	if strings.Contains(text, pagePostgres) || strings.Contains(text, "```sql") || strings.Contains(text, "check: run") {
		s.postgres, s.admin = database(t)
	}
	if strings.Contains(text, pageMaria) {
		s.maria, _, _ = strings.Cut(mariatest.DSN(t), "?")
	}
	for _, m := range append(localPort.FindAllStringSubmatch(text, -1), servePort.FindAllStringSubmatch(text, -1)...) {
		if s.ports[m[1]] == "" && m[1] != "5432" && m[1] != "3306" {
			require.NoError(t, s.renew(m[1]))
		}
	}
	return s
}

// makingRoles is held while roles are made: they belong to the server, and tests run side by side. An advisory lock would
// be one of the page's database.
var makingRoles sync.Mutex

// database makes a database that belongs to the role shop, of which app is a member.
func database(t *testing.T) (address, admin string) {
	t.Helper()
	makingRoles.Lock()
	defer makingRoles.Unlock()
	u, err := url.Parse(pgtest.DSN(t))
	require.NoError(t, err)
	name := strings.TrimPrefix(u.Path, "/")
	db, err := sql.Open("postgres", u.String())
	require.NoError(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, statement := range []string{
		`DO $$ BEGIN
			IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shop') THEN
				CREATE ROLE shop LOGIN PASSWORD 'secret';
				CREATE ROLE app LOGIN PASSWORD 'secret' IN ROLE shop;
				GRANT pg_monitor TO shop;
			END IF;
		END $$`,
		"ALTER DATABASE " + name + " OWNER TO shop",
	} {
		_, err := db.Exec(statement)
		require.NoError(t, err, statement)
	}
	return u.Host + u.Path, u.String()
}

// renew puts another port in the place of one that a page used before.
func (s *substitutes) renew(port string) error {
	return localserver.OnFreePort(func(n int) error {
		s.ports[port] = strconv.Itoa(n)
		s.pages[s.ports[port]] = port
		return nil
	})
}

// database is the URL of the page's database.
func (s *substitutes) database() string {
	return "postgres://shop:secret@" + s.postgres + "?sslmode=disable"
}

// mariaClient is a command that runs SQL on the page's database of MariaDB.
func (s *substitutes) mariaClient() string {
	m := mariaDSN.FindStringSubmatch(s.maria)
	return fmt.Sprintf("mariadb --no-defaults --protocol=tcp --user='%s' --password='%s' --host='%s' --port='%s' '%s'", m[1], m[2], m[3], m[4], m[5])
}

// in puts the substitutes into what a page has.
func (s *substitutes) in(text string) string {
	if s.postgres != "" {
		text = strings.ReplaceAll(text, pagePostgres, s.postgres)
	}
	if s.maria != "" {
		text = strings.ReplaceAll(text, pageMaria, s.maria)
	}
	text = localPort.ReplaceAllStringFunc(text, func(m string) string {
		if mine := s.ports[strings.TrimPrefix(m, "localhost:")]; mine != "" {
			return "127.0.0.1:" + mine
		}
		return m
	})
	return binFolder.ReplaceAllString(text, "${1}"+s.scratch+"/")
}

// back gives what was printed as the page has it.
func (s *substitutes) back(printed string) string {
	if s.postgres != "" {
		host, name, _ := strings.Cut(s.postgres, "/")
		printed = strings.ReplaceAll(printed, s.postgres, pagePostgres)
		printed = strings.ReplaceAll(printed, host, "localhost:5432")
		printed = strings.ReplaceAll(printed, name, "shop")
	}
	for mine, page := range s.pages {
		printed = strings.ReplaceAll(printed, "127.0.0.1:"+mine, "localhost:"+page)
	}
	return strings.ReplaceAll(printed, s.scratch+"/", "bin/")
}
