// Command compare runs lifeguard and its peers through the same workloads on this machine, against a PostgreSQL server
// of its own, and writes tables and pictures of the results.
//
//	go run ./benchmarks/cmd/compare -workloads contention,overload -candidates plain,lifeguard,pgxpool -rounds 3
//
// The candidates take turns in every round, in an order drawn anew for each, so that what disturbs the machine disturbs
// all of them; ratios are taken round by round. With -out the page benchmarks.md and its pictures are written to that
// folder, otherwise the tables go to the standard output. LIFEGUARD_TEST_POSTGRES names another server to use.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/workload"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// enoughRounds is how many a median and its spread are worth something from.
const enoughRounds = 5

func main() {
	os.Exit(pgtest.Run(program{})) // it stops the server whatever happens
}

type program struct{}

// Run is called by pgtest.Run and returns the exit code.
func (program) Run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "compare:", err)
		return 1
	}
	return 0
}

// settings are those of the command line.
type settings struct {
	candidates []candidate.Candidate
	workloads  []workload.Workload
	rounds     int
	extent     workload.Extent
	seed       uint64
	out        string
	readme     string
}

// whole says that the figures are worth being quoted elsewhere.
func (s settings) whole() bool {
	return s.extent == workload.Full && s.rounds >= enoughRounds &&
		len(s.workloads) == len(workload.All()) && len(s.candidates) == len(candidate.All())
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.SetOutput(stderr)
	workloads := flags.String("workloads", "all", "comma-separated: "+strings.Join(workloadNames(), ", "))
	candidates := flags.String("candidates", "all",
		"comma-separated names, or beginnings of them: "+strings.Join(candidateNames(candidate.All()), ", "))
	flags.IntVar(&s.rounds, "rounds", 0, fmt.Sprintf("how often everything is measured (default %d, with -quick 2, with "+
		"-smoke 1)", enoughRounds))
	quick := flags.Bool("quick", false, "shorter measurements, and fewer: under 3 minutes for everything")
	smoke := flags.Bool("smoke", false, "next to nothing of everything, to see that it works")
	flags.Uint64Var(&s.seed, "seed", 0, "of the random numbers (default: another one each time; it is printed)")
	flags.StringVar(&s.out, "out", "", "folder for benchmarks.md and img/ (default: tables to the standard output, no "+
		"pictures)")
	flags.StringVar(&s.readme, "readme", "", "file whose block of figures is to be those of this run, or empty unless the "+
		"run was a full one")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q: everything is a flag, see -help", flags.Arg(0))
	}
	if s.rounds < 0 {
		return s, fmt.Errorf("-rounds=%d: want at least 1", s.rounds)
	}
	defaultRounds := enoughRounds
	switch {
	case *quick && *smoke:
		return s, errors.New("-quick and -smoke: only one of them")
	case *quick:
		s.extent, defaultRounds = workload.Quick, 2
	case *smoke:
		s.extent, defaultRounds = workload.Smoke, 1
	}
	if s.rounds == 0 {
		s.rounds = defaultRounds
	}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	var err error
	if s.workloads, err = chooseWorkloads(*workloads); err != nil {
		return s, err
	}
	s.candidates, err = chooseCandidates(*candidates)
	return s, err
}

func workloadNames() (names []string) {
	for _, w := range workload.All() {
		names = append(names, w.Name())
	}
	return names
}

func candidateNames(list []candidate.Candidate) (names []string) {
	for _, c := range list {
		names = append(names, c.Name())
	}
	return names
}

func chooseWorkloads(list string) ([]workload.Workload, error) {
	all := workload.All()
	if list == "all" {
		return all, nil
	}
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.Contains(workloadNames(), name) {
			return nil, fmt.Errorf("-workloads: there is no %q; there are %s", name, strings.Join(workloadNames(), ", "))
		}
	}
	return slices.DeleteFunc(all, func(w workload.Workload) bool { return !slices.Contains(wanted, w.Name()) }), nil
}

// chooseCandidates keeps the order of candidate.All, and always the first, which the others are compared to.
func chooseCandidates(list string) ([]candidate.Candidate, error) {
	all := candidate.All()
	if list == "all" {
		return all, nil
	}
	wanted := map[string]bool{all[0].Name(): true}
	for name := range strings.SplitSeq(list, ",") {
		matches := slices.Clone(all)
		matches = slices.DeleteFunc(matches, func(c candidate.Candidate) bool { return !strings.HasPrefix(c.Name(), name) })
		if i := slices.Index(candidateNames(matches), name); i >= 0 {
			matches = matches[i : i+1]
		}
		if len(matches) != 1 || name == "" {
			return nil, fmt.Errorf("-candidates: %q is the beginning of %d names; write one of %s",
				name, len(matches), strings.Join(candidateNames(all), ", "))
		}
		wanted[matches[0].Name()] = true
	}
	return slices.DeleteFunc(all, func(c candidate.Candidate) bool { return !wanted[c.Name()] }), nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	server, err := startServer()
	if err != nil {
		return err
	}
	defer server.close()
	p := page{settings: s, args: args, began: time.Now()}
	if p.machine, err = inspect(ctx, server.dsn); err != nil {
		return err
	}
	r := &workload.Run{
		Candidates: s.candidates, DSN: server.dsn,
		Rounds: s.rounds, Extent: s.extent, Seed: s.seed, Log: stderr, Began: p.began,
	}
	for _, w := range s.workloads {
		began := time.Now()
		section, err := w.Run(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", w.Name(), err)
		}
		p.sections = append(p.sections, section)
		fmt.Fprintf(stderr, "%s took %s\n", w.Name(), time.Since(began).Round(time.Second))
	}
	p.took = time.Since(p.began)
	if s.readme != "" {
		if err := p.saveReadme(s.readme); err != nil {
			return err
		}
	}
	if s.out == "" {
		return p.write(stdout)
	}
	return p.save(s.out)
}
