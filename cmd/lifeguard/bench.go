package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
)

// level is what was measured under one connection_limit.
type level struct {
	Limit      int      `json:"limit"`
	Throughput float64  `json:"throughput"` // queries a second
	P50        float64  `json:"p50_ms"`     // with the wait for a connection
	P99        float64  `json:"p99_ms"`
	Load       *float64 `json:"load"` // mean of the sessions at work on the server; null if that cannot be told
	Errors     int      `json:"errors"`
}

// result is the JSON of bench.
type result struct {
	Clients     int     `json:"clients"`
	Levels      []level `json:"levels"`
	Best        int     `json:"best"`        // the limit of the highest throughput; 0 if no query ended
	Recommended int     `json:"recommended"` // the smallest limit within 5 % of it
	Interrupted bool    `json:"interrupted"`
}

// plan is what bench is asked to do.
type plan struct {
	query       string
	clients     int
	limits      []int
	duration    time.Duration
	allowWrites bool
}

func benchCommand() *cobra.Command {
	var p plan
	var limits, svg string
	var asJSON bool
	c := &cobra.Command{
		Use:   "bench [DSN|-]",
		Short: "Find the connection_limit after which more connections do not help",
		Long: `Run a query from many clients under one connection_limit after the other, and name the smallest limit
whose throughput is within 5 % of the best. Statements that write are refused unless --allow-writes is given.
It takes --duration and a tenth of it for each limit, once the connections are open.`,
		Args: oneDSN,
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if p.limits, err = readLimits(limits); err != nil {
				return err
			}
			switch {
			case p.clients < 1 || p.clients > 10000:
				return usagef("--clients is how many run the query at once; write 1 to 10000")
			case p.duration < 10*time.Millisecond || p.duration > time.Hour:
				return usagef("--duration is the time for each limit; write 10ms to 1h")
			case strings.TrimSpace(p.query) == "":
				return usagef("--query is empty; write for example --query='SELECT 1'")
			}
			s, err := readSource(c, args)
			if err != nil {
				return err
			}
			return bench(c, s, p, asJSON, svg)
		},
	}
	c.Flags().StringVar(&p.query, "query", "SELECT 1", "the statement to run, without arguments")
	c.Flags().IntVar(&p.clients, "clients", 64, "goroutines that run it at once")
	c.Flags().StringVar(&limits, "limits", "1,2,4,8,16,32", "the values of connection_limit")
	c.Flags().DurationVar(&p.duration, "duration", 3*time.Second, "time for each limit")
	c.Flags().BoolVar(&p.allowWrites, "allow-writes", false, "let the statement write")
	c.Flags().StringVar(&svg, "svg", "", "write the picture to this file")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func readLimits(text string) (limits []int, err error) {
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > 65535 {
			return nil, usagef("--limits are whole numbers from 1 to 65535 with commas between; write for example --limits=2,4,8")
		}
		limits = append(limits, n)
	}
	slices.Sort(limits)
	return slices.Compact(limits), nil
}

func bench(c *cobra.Command, s *source, p plan, asJSON bool, svg string) error {
	if err := s.mustExist(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), sideTimeout)
	defer cancel()
	l, err := within(ctx, func() (*load, error) { return newLoad(ctx, s, p) })
	if err == context.DeadlineExceeded { // of within: others are explained already
		err = s.explain(err)
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer l.close()
	r, failed := sweep(c.Context(), l, c.ErrOrStderr())
	if len(r.Levels) == 0 && failed != nil {
		return fmt.Errorf("bench: %w", s.explain(failed))
	}
	if asJSON {
		err = writeJSON(c.OutOrStdout(), r)
	} else {
		err = r.write(c.OutOrStdout())
	}
	if svg != "" && len(r.Levels) > 0 {
		if problem := os.WriteFile(svg, []byte(r.svg()), 0o644); problem != nil {
			err = errors.Join(err, fmt.Errorf("--svg: %w", problem))
		}
	}
	switch {
	case r.Interrupted:
		return errInterrupted
	case failed == nil && r.Best == 0:
		return fmt.Errorf("bench: no query ended within %s; write a longer --duration", period(p.duration))
	case failed != nil:
		return fmt.Errorf("bench: some queries failed, the first with: %w", s.explain(failed))
	}
	return err
}

// sweep measures one limit after the other, until ctx ends. The level under way then is left out. failed is the first
// error of a query.
func sweep(ctx context.Context, l *load, errs io.Writer) (r *result, failed error) {
	r = &result{Clients: l.plan.clients, Levels: []level{}}
	step := func(int) {}
	if isTerminal(errs) {
		bar := progressbar.NewOptions(len(l.plan.limits), progressbar.OptionSetWriter(errs), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(30), progressbar.OptionSetPredictTime(true))
		defer bar.Clear()
		step = func(limit int) {
			bar.Describe(fmt.Sprintf("connection_limit=%d", limit))
			bar.RenderBlank()
			if limit != l.plan.limits[0] {
				bar.Add(1)
			}
		}
	}
	for _, limit := range l.plan.limits {
		step(limit)
		measured, err := within(ctx, func() (level, error) { return l.run(ctx, limit) })
		if ctx.Err() != nil {
			r.Interrupted = true
			break
		}
		if err != nil && failed == nil {
			failed = err
		}
		if err != nil && measured.Throughput == 0 {
			break // nothing succeeds; a larger limit would not help
		}
		r.Levels = append(r.Levels, measured)
	}
	r.recommend()
	return r, failed
}

// enough is the part of the best throughput that the recommended limit has to reach.
const enough = 0.95

func (r *result) recommend() {
	best := 0.0
	for _, l := range r.Levels {
		if l.Throughput > best {
			best, r.Best = l.Throughput, l.Limit
		}
	}
	if r.Best == 0 {
		return
	}
	for _, l := range r.Levels { // ascending
		if l.Throughput >= enough*best {
			r.Recommended = l.Limit
			return
		}
	}
}

func (r *result) write(out io.Writer) error {
	if len(r.Levels) == 0 {
		_, err := fmt.Fprintln(out, "no limit was measured to its end")
		return err
	}
	best := 0.0
	for _, l := range r.Levels {
		best = max(best, l.Throughput)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "limit\tqueries/s\tp50 ms\tp99 ms\tserver's load\terrors\t\n")
	for _, l := range r.Levels {
		load := "-"
		if l.Load != nil {
			load = fmt.Sprintf("%.1f", *l.Load)
		}
		fmt.Fprintf(w, "%d\t%.0f\t%.2f\t%.2f\t%s\t%d\t\n", l.Limit, l.Throughput, l.P50, l.P99, load, l.Errors)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, l := range r.Levels {
		fmt.Fprintf(out, "%5d %s %.0f\n", l.Limit, strings.Repeat("█", max(1, int(40*l.Throughput/max(best, 1e-9)))), l.Throughput)
	}
	if r.Best == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "\nbest: connection_limit=%d\nsmallest within 5 %% of it: connection_limit=%d\n", r.Best, r.Recommended)
	return err
}
