// Command lifeguard looks at a database before and beside the pool: whether a service's settings fit its server (check),
// how many connections are worth having (bench), and what DSN the driver itself gets (dsn).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// The exit statuses.
const (
	exitUnfit       = 1   // the settings do not fit the server, or it cannot be reached
	exitUsage       = 2   // wrong use
	exitInterrupted = 130 // Ctrl-C
)

// usageError is a mistake in the command line. Its text says what to type instead.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errUnfit ends check with its status. The report has said why.
var errUnfit = errors.New("the settings do not fit the server")

// errInterrupted ends bench after Ctrl-C. The table so far has been printed.
var errInterrupted = errors.New("interrupted")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted), ctx.Err() != nil:
		fmt.Fprintln(errs, "lifeguard: interrupted")
		return exitInterrupted
	case errors.Is(err, errUnfit):
		return exitUnfit
	}
	fmt.Fprintln(errs, "lifeguard:", strings.TrimPrefix(err.Error(), "lifeguard: "))
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitUnfit
}

// grace is how long work may take to end after its context.
const grace = time.Second

// within returns when f does, or soon after ctx has ended: lib/pq looks at no context while it logs in to a server that is
// silent. What f does then ends with the process.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	var over <-chan time.Time
	ended := ctx.Done()
	for {
		select {
		case r := <-done:
			return r.value, r.err
		case <-ended:
			ended, over = nil, time.After(grace)
		case <-over:
			var none T
			return none, ctx.Err()
		}
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "lifeguard",
		Short: "Look at a database and its connection pool",
		Long: `Look at a database and its connection pool.

The DSN is lifeguard's: the driver's own with lifeguard's parameters in it. Without an argument it is read from
DATABASE_URL, and with the argument - from standard input, so that the password does not appear in ps.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		// cobra's own check would quote the word, which may be a DSN with its password.
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command; write lifeguard check, lifeguard bench or lifeguard dsn, and the DSN after it")
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.PersistentFlags().String("driver", "", "postgres, mysql or sqlite; told by the DSN's form if it is not given")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if strings.ContainsAny(err.Error(), "@=?") || strings.Contains(err.Error(), "://") {
			return usagef("a flag cannot be read; %s --help lists them", c.CommandPath())
		}
		return usagef("%w; %s --help lists the flags", err, c.CommandPath())
	})
	root.AddCommand(checkCommand(), benchCommand(), dsnCommand())
	return root
}

func oneDSN(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes one DSN, in quotes, and %d words came; write %s 'DSN'", c.CommandPath(), len(args), c.CommandPath())
	}
	return nil
}

func dsnCommand() *cobra.Command {
	var show bool
	c := &cobra.Command{
		Use:   "dsn [DSN|-]",
		Short: "Print the driver's own DSN: without lifeguard's parameters, for psql",
		Args:  oneDSN,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := readSource(c, args)
			if err != nil {
				return err
			}
			if s.system != sqlite && !show && isTerminal(c.OutOrStdout()) {
				return usagef(`the DSN may hold a password, and this is a terminal; write psql "$(lifeguard dsn)", or --show-password to see it`)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), s.driverDSN)
			return err
		},
	}
	c.Flags().BoolVar(&show, "show-password", false, "print on a terminal too")
	return c
}
