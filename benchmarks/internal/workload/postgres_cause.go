package workload

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

func (w postgres) cause(r *Run, t *report.Table, loss report.Loss) (text, note string) {
	clients := 0
	_, _ = fmt.Sscanf(loss.Column, "%d", &clients)
	delayed := strings.Contains(t.Title, eachWay)
	switch {
	case loss.To == "pgxpool" && clients == 1 && !delayed && startsGoroutine(t) && !behindBaseline(t, loss):
		return startsAndWakes, ""
	case IsPGX(loss.To) && loss.Row.Candidate != overPGX && !behindBaseline(t, loss):
		if delayed {
			return "pgx sends less, or in fewer pieces, for the same: it prepares queries without arguments as well, and its " +
				"processor time is less. With " + loss.To + " plain lib/pq is behind too.", ""
		}
		return pgxIsLighter, ""
	case strings.HasPrefix(t.Title, preparedTitle) && loss.Row.Candidate == "lifeguard" && clients > fewIdle:
		return "A caller that waits gets a new lease of the handle's, and so does one that finds none of the two that the handle " +
			"keeps idle with `sql.Open`: `database/sql` prepares a statement of `db.Prepare` on it again. lifeguard answers " +
			"that from its cache, without asking the server, but not for nothing.", ""
	case strings.HasPrefix(t.Title, preparedTitle) && loss.Factor > again && (loss.Row.Candidate == "lifeguard (no cache)" || loss.Row.Candidate == overPGX):
		return preparedAgain, ""
	case clients > postgresConnections:
		return "While somebody waits, every connection that comes back changes hands in order, which costs processor time: the " +
			"goroutine whose turn it is has to be woken, and the handle closes one lease and opens another. Plain " +
			"`database/sql` hands what it has to anyone. The less the query itself takes of the processors, the more it shows.", ""
	default:
		return w.nobodyWaits(r, t, loss, clients)
	}
}

// again is by what factor a statement is slower, at the least, that is prepared and closed again for each run.
const again = 1.7

const preparedAgain = "A caller that waits gets a new lease of the handle's, and `database/sql` prepares a statement of `db.Prepare` on it " +
	"again. Where lifeguard keeps no statements, with `statement_cache_size=0` and over pgx, the server is asked each time: " +
	"three round trips for one."

// overPGX is lifeguard over another driver than the baseline's.
const overPGX = "lifeguard over pgx"

// startsGoroutine says whether database/sql starts a goroutine in the job of a table.
func startsGoroutine(t *report.Table) bool {
	return slices.ContainsFunc(jobs, func(j job) bool {
		return strings.HasPrefix(t.Title, j.title+",") && j.rows > 0 && j.rows < manyRows && j.name != "endless"
	})
}

// manyRows take so long to read that a goroutine more or less does not show.
const manyRows = 100

const startsAndWakes = "`database/sql` starts a goroutine for each transaction, and for each query, to wait for the end of " +
	"its context. For that Go wakes a second thread, and from then on client and server wake each other across two " +
	"processors, which takes longer than the query. pgxpool has no such goroutine; nor have, on `database/sql`, an INSERT " +
	"and a query whose context cannot end: see there."

// fewIdle is how many idle connections a handle of sql.Open keeps.
const fewIdle = 2

// nobodyWaits compares a loss with what lifeguard itself takes.
func (postgres) nobodyWaits(r *Run, t *report.Table, loss report.Loss, clients int) (text, note string) {
	each := func(candidate string) float64 {
		return 1 / stats.Median(t.Values(report.Row{Variant: loss.Row.Variant, Candidate: candidate}, loss.Column))
	}
	more, own := each(loss.Row.Candidate)-each(loss.To), 0.0
	for _, j := range jobs {
		if strings.HasPrefix(t.Title, j.title+",") {
			own = float64(j.operations)*r.ownCost + float64(j.rows)*r.ownRowCost
		}
	}
	if more > 0 {
		note = report.Seconds.Format(more) + " more"
		if own > 0 {
			note += ", lifeguard's own part about " + report.Seconds.Format(own)
		}
	}
	switch {
	case clients > fewIdle && loss.Row.Candidate != overPGX:
		return "Nobody waits, but `sql.Open` lets the handle keep two connections idle, and the others go back to the pool " +
			"at each return and out of it again at the next checkout.", note
	case own > 0 && more > 3*own:
		return "lifeguard's own part, as Overhead has it, is too small for the difference. With a single goroutine, client and " +
			"server wait for each other in turns, and the rate is that of waking up: the spread in the table is that of " +
			"two connections, not of two libraries.", note
	default:
		return "Nobody waits, and lifeguard's account of a query is a visible part of a query that takes so little.", note
	}
}
