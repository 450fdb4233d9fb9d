package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/workload"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func TestParse(t *testing.T) {
	s, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.rounds < enoughRounds || s.extent != workload.Full || s.seed == 0 || len(s.workloads) < 8 || len(s.candidates) < 12 {
		t.Errorf("defaults are %+v", s)
	}
	if !s.whole() {
		t.Error("the defaults are not a whole run")
	}
	s, err = parse(strings.Fields("-quick -workloads overload,churn -candidates lifeguard,pgxp -seed 9"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	// The order is that of the page, and the baseline is always there.
	if names := candidateNames(s.candidates); !slices.Equal(names, []string{"plain database/sql", "lifeguard", "pgxpool"}) {
		t.Errorf("candidates %q", names)
	}
	if len(s.workloads) != 2 || s.workloads[0].Name() != "overload" || s.rounds >= enoughRounds || s.seed != 9 || s.whole() {
		t.Errorf("got %+v", s)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-workloads contention,oveload", `"oveload"`},
		{"-candidates pgx", `"pgx" is the beginning of 2 names`},
		{"-candidates nobody", `"nobody" is the beginning of 0 names`},
		{"-candidates=", "-candidates"},
		{"-rounds -1", "-rounds=-1"},
		{"quick", `"quick"`},
		{"-quick -smoke", "only one"},
	} {
		if _, err := parse(strings.Fields(c.args), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %s", c.args, err, c.want)
		}
	}
}

// Every workload, as small as it gets, with candidates of all kinds.
func TestRunAll(t *testing.T) {
	var out strings.Builder
	args := []string{"-smoke", "-candidates", "lifeguard,pgxpool"}
	if err := run(t.Context(), args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## In short", "prepared query, 8 goroutines, no delay, 4 connections", "allocations of Exec, everything on",
		"100 goroutines on 5 connections, 20 ms each: 99 in 100 answered within", "held for 100 µs",
		"| query by primary key, 8 goroutines, no delay |", "[Overload](#overload-requests-that-come-anyway)",
		"figures mean nothing", "## Overhead", "## PostgreSQL", "## Contention", "## Overload", "## Spike", "## Slow dials", "## Churn", "## Acquire and release, by size of pool and crowd", "## Memory",
		"| **lifeguard** |", "| pgxpool |", "puddle",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tables do not have %q", want)
		}
	}
}

// A small run from the command line to the page and its pictures.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	args := []string{"-smoke", "-workloads", "contention,spike", "-candidates", "lifeguard,XSAM", "-seed", "5", "-out", dir}
	if err := run(t.Context(), args, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 round, fewer than 5", "## Where lifeguard is behind", "## Contention", "## Spike", "| **lifeguard** |",
		"XSAM/otelsql: left out of quick runs.", "| 100 goroutines on 5 connections, 5 ms each: 99 in 100 answered within |", "| seed | 5 |", "| PostgreSQL |", strings.Join(args, " "),
		"![Latency of 100 goroutines on 5 connections](img/bench-contention.svg)",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	picture, err := os.Open(filepath.Join(dir, "img", "bench-contention.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer picture.Close()
	for d := xml.NewDecoder(picture); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// What goes wrong while the server starts is an error and not a panic.
func TestServerThatCannotBeReached(t *testing.T) {
	if os.Getenv(pgtest.Environment) != "" {
		t.Skip("the server of the environment is in use by then")
	}
	t.Setenv(pgtest.Environment, "postgres://nobody@127.0.0.1:1/none?sslmode=disable")
	if s, err := startServer(); err == nil {
		s.close()
		t.Error("no error")
	}
}
