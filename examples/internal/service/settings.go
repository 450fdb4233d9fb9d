package service

import (
	"flag"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Settings are the same for every service.
type Settings struct {
	Addr        string        // address to listen on
	Grace       time.Duration // for requests under way at the end
	DatabaseURL string        // "" is SQLite in a temporary file
}

// ParseSettings reads the command line and the environment; the command line
// wins.
func (service *Service) ParseSettings(args []string, getenv func(string) string, usage io.Writer) (Settings, error) {
	s := Settings{Addr: fmt.Sprintf(":%d", service.Port), DatabaseURL: getenv("DATABASE_URL")}
	if port := getenv("PORT"); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			return Settings{}, fmt.Errorf("PORT is %q; write a port number from 0 (any free one) to 65535", port)
		} else {
			s.Addr = fmt.Sprintf(":%d", n)
		}
	}
	flags := flag.NewFlagSet(service.Name, flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.Usage = func() {
		fmt.Fprintf(usage, "Usage: %s [flags]\n\nThe environment variable DATABASE_URL names a PostgreSQL; without it the service runs on SQLite in a temporary file.\n\n", service.Name)
		flags.PrintDefaults()
	}
	flags.StringVar(&s.Addr, "addr", s.Addr, "`address` to listen on; the environment variable PORT changes the default")
	flags.DurationVar(&s.Grace, "grace", 15*time.Second, "how long requests under way may take to finish after SIGTERM or SIGINT")
	if err := flags.Parse(args); err != nil {
		return Settings{}, err
	}
	if flags.NArg() > 0 {
		return Settings{}, fmt.Errorf("unexpected argument %q; the database is set with the environment variable DATABASE_URL", flags.Arg(0))
	}
	if s.Grace <= 0 {
		return Settings{}, fmt.Errorf("-grace is %v; write a positive duration such as 15s", s.Grace)
	}
	return s, nil
}
