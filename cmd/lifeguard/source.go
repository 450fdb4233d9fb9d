package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/lib/pq"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

// The systems, by the names of their drivers.
const (
	postgres = "postgres"
	mysql    = "mysql"
	sqlite   = "sqlite"
)

// source is a DSN that was read, taken apart.
type source struct {
	system    string // and the driver's name
	text      string // as it was given
	driverDSN string
	config    lifeguard.Config
	redactor  dsn.Redactor
}

// maxDSN is the most bytes read from standard input.
const maxDSN = 64 << 10

// readSource reads the DSN from the argument, from standard input, or from DATABASE_URL.
func readSource(c *cobra.Command, args []string) (*source, error) {
	text := os.Getenv("DATABASE_URL")
	switch {
	case len(args) == 1 && args[0] == "-":
		b, err := io.ReadAll(io.LimitReader(c.InOrStdin(), maxDSN))
		if err != nil {
			return nil, fmt.Errorf("reading the DSN from standard input: %w", err)
		}
		text = strings.TrimSpace(string(b))
	case len(args) == 1:
		text = args[0]
	}
	if text == "" {
		return nil, usagef("no DSN; write %s 'postgres://user@host/database', set DATABASE_URL, or write - to read it from standard input",
			c.CommandPath())
	}
	name, err := c.Flags().GetString("driver")
	if err != nil {
		return nil, err
	}
	return newSource(name, text)
}

func newSource(name, text string) (*source, error) {
	s := &source{system: name, text: text, redactor: dsn.NewRedactor(text)}
	switch name {
	case postgres, mysql, sqlite:
	case "":
		s.system = guess(text)
	default:
		return nil, usagef("--driver is none of those there are; write --driver=postgres, --driver=mysql or --driver=sqlite")
	}
	switch {
	case s.system == "":
		return nil, usagef("the DSN's form tells no driver; add --driver=postgres, --driver=mysql or --driver=sqlite")
	case s.system == mysql && strings.HasPrefix(text, "mysql://"):
		return nil, usagef("MySQL's driver takes no URL; write user:password@tcp(host:3306)/database")
	}
	base := lifeguard.DefaultConfig()
	if s.system == sqlite { // what lifeguard.Open does
		base.MaxConnectionLifetime, base.MaxIdleConnectionLifetime = 0, 0
	}
	var err error
	if s.config, s.driverDSN, err = lifeguard.ParseDSN(text, base); err != nil {
		return nil, usageError{err}
	}
	if s.config.PoolName == "" {
		s.config.PoolName = dsn.Find(s.system, s.driverDSN).PoolName()
	}
	return s, nil
}

// guess tells the driver from the DSN's form, or gives "".
func guess(text string) string {
	switch dsn.System("", text) {
	case "postgresql":
		return postgres
	case "mysql":
		return mysql
	case "sqlite":
		return sqlite
	}
	path, _, _ := strings.Cut(text, "?")
	for _, ending := range []string{".db", ".sqlite", ".sqlite3"} {
		if strings.HasSuffix(path, ending) && !strings.ContainsAny(path, "@=") {
			return sqlite
		}
	}
	if strings.HasPrefix(text, "mysql://") {
		return mysql
	}
	return ""
}

// file gives the path of an SQLite database, "" for one in memory.
func (s *source) file() string {
	path, query, _ := strings.Cut(s.driverDSN, "?")
	path = strings.TrimPrefix(strings.TrimPrefix(path, "file:"), "//")
	if path == "" || strings.Contains(path, ":memory:") || strings.Contains(query, "mode=memory") {
		return ""
	}
	return path
}

// mustExist refuses an SQLite file that is not there, which the driver would make.
func (s *source) mustExist() error {
	if s.system != sqlite || s.file() == "" {
		return nil
	}
	switch info, err := os.Stat(s.file()); {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("the SQLite file does not exist, and would be made; write the path of one that is there")
	case err != nil:
		return errors.New("the SQLite file cannot be looked at; check the path and its permissions")
	case info.IsDir():
		return errors.New("the SQLite path is a folder; write the path of a file in it")
	}
	return nil
}

// isTerminal says whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
