package stmtcache

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// suspicion is what an error of a kept statement says about the statement.
type suspicion int

const (
	innocent  suspicion = iota - 1
	running             // a fresh statement may not give the error; the query may have begun to run
	perhaps             // a fresh statement may not give the error; nothing has run
	certainly           // the error comes from the statement, before anything has run
)

// suspect judges an error. An error with a context (Where) was raised while something ran, such as a function.
func suspect(err error) suspicion {
	switch libpq.Code(err) {
	case "1243", "1615": // MySQL: an unknown statement, one that must be prepared again
		return certainly
	}
	var e *pq.Error
	if !errors.As(err, &e) {
		return innocent
	}
	if e.Where == "" {
		switch {
		case e.Code == "26000", e.Code == "42P05", e.Code == "42P10",
			e.Code == "08P01" && e.Routine == "exec_bind_message",
			e.Code == "0A000" && e.Routine == "RevalidateCachedQuery": // its result has other columns now
			return certainly
		}
	}
	switch e.Code.Class() {
	case "0A", "22", "26", "42", "53", "XX":
	default:
		if e.Code != "08P01" {
			return innocent
		}
	}
	if e.Where == "" && e.Position != "" || argument(e.Where) {
		return perhaps
	}
	return running
}

// argument says whether a context is that of an argument which was read: "unnamed portal parameter $1 = '…'", in the
// server's language. Contexts of functions and their queries have quotes or brackets, those of what runs with arguments a colon.
func argument(where string) bool {
	where, _, _ = strings.Cut(where, " = ")
	return strings.Contains(where, "$") && !strings.ContainsAny(where, "\n:\"«»()")
}

// recheck is the least time between two preparations of a text that may not be stale. Arguments that are no
// fault of the statement's, such as a malformed UUID in a URL, must not cost a preparation each time.
const recheck = time.Second

// heal decides what an error of k means. It prepares k's text anew and executes nothing. If again is true, the query has not
// run and is to run once more; otherwise the error that is returned is the answer.
//
// A query that failed while it ran must not run twice: no rollback takes back what dblink, a sequence or an advisory lock did.
func (k *Statement) heal(ctx context.Context, err error) (again bool, _ error) {
	c, why := k.cache, suspect(err)
	now := c.shared.Now()
	switch {
	case why == innocent:
		return false, err
	case k.holder == program, !k.kept && k.holder != lent, c.open > 0: // the driver gives this error, too, or nothing can be prepared now
		if why == certainly {
			k.at = stale
		}
		return false, err
	case why != certainly && k.checked != 0 && now-k.checked < int64(recheck):
		return false, err
	case why != certainly:
		k.checked = now
	}
	columns := why == certainly && libpq.Code(err) == "0A000"
	announced := c.shared.generation.Load() != c.seenGeneration
	c.follow()
	generation := c.generation
	fresh, failure := c.prepare(ctx, k.text)
	retyped := failure == nil && why != certainly && c.retyped(ctx, k.text)
	if !announced && (columns || retyped) {
		c.shared.generation.Add(1) // another client has changed tables: other sessions prepare again before they fail, too
	}
	if failure != nil {
		k.at = stale
		if suspect(failure) != innocent {
			return false, failure // a fresh statement's answer
		}
		return false, err // the transaction has failed, or the connection has gone
	}
	k.replace(fresh, generation, now)
	if why == running || why == perhaps && !retyped {
		return false, err
	}
	c.shared.retries.Add(1)
	return true, nil
}

// retyped says whether the last two statements that were prepared for text take parameters of different types.
func (c *Cache) retyped(ctx context.Context, text string) bool {
	n, err := c.ask(ctx, "SELECT count(DISTINCT parameter_types::pg_catalog.oid[]) FROM (SELECT parameter_types FROM pg_catalog.pg_prepared_statements"+
		" WHERE statement = $1 AND NOT from_sql ORDER BY prepare_time DESC LIMIT 2) latest", driver.NamedValue{Ordinal: 1, Value: text})
	return err == nil && n == 2
}

// ask runs a query of the cache's own that gives a number in the last column of its only row.
func (c *Cache) ask(ctx context.Context, query string, args ...driver.NamedValue) (int64, error) {
	rows, err := c.conn.Query(ctx, query, args)
	if err != nil {
		return 0, err
	}
	var n sql.NullInt64
	values := make([]driver.Value, len(rows.Columns()))
	if err = rows.Next(values); err == nil {
		err = n.Scan(values[len(values)-1])
	}
	return n.Int64, errors.Join(err, rows.Close())
}
