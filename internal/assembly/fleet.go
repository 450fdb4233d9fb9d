package assembly

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/fleet"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/session"
)

// restBeforeYield is how long a connection is idle before it is given up to a process that has its share already.
const restBeforeYield = 250 * time.Millisecond

// term is how long a connection is used that is given up by turns: many times what it takes to open the next one.
const term = 500 * time.Millisecond

// Fleet says in which fleet a pool takes part: in none without a limit.
type Fleet struct {
	Connector driver.Connector // of the fleet session, lib/pq's
	Name      string           // "" is the database's
	Limit     int
}

// join makes the pool's part in its fleet, and the budget that follows from it; nil without a fleet. made is closed when the
// pool is there.
func (p *Pool) join(made <-chan struct{}) *pool.Budget[*session.Session] {
	if p.cfg.Fleet.Limit == 0 {
		return nil
	}
	budget := &pool.Budget[*session.Session]{}
	p.fleet = fleet.New(fleet.Config{
		Connector: p.cfg.Fleet.Connector, Name: p.cfg.Fleet.Name, Limit: p.cfg.Fleet.Limit,
		Pool: p.cfg.Name, Log: p.cfg.Log, Redact: p.dialError,
		Demand: func() (missing int, urgent bool) { <-made; return budget.Dial() },
		Ready:  func() { <-made; budget.Dial() },
		Yield: func(o fleet.Owed) {
			<-made
			used := time.Duration(0)
			if o.Turn {
				used = term
			}
			budget.Yield(o.Firm, o.Rested, restBeforeYield, used, o.Doomed)
		},
		Room: func() { <-made; budget.Yield(0, 1, 0, 0, nil) },
	})
	budget.Take, budget.Return = p.fleet.Take, p.fleet.Return
	budget.Open = func(ctx context.Context, token int) (*session.Session, error) {
		if token == 0 {
			return nil, p.fleet.Err()
		}
		return p.opener.Open(context.WithValue(ctx, tokenKey{}, token))
	}
	return budget
}

// Fleet is the pool's fleet as this process knows it, the zero Snapshot without one.
func (p *Pool) Fleet() fleet.Snapshot {
	if p.fleet == nil {
		return fleet.Snapshot{}
	}
	return p.fleet.Snapshot()
}

// tokenKey marks the context of a dial; its value is the token.
type tokenKey struct{}

// admit has a new connection take the token of its dial.
func (p *Pool) admit(ctx context.Context, ask func(string) (string, error)) error {
	token, ok := ctx.Value(tokenKey{}).(int)
	if !ok {
		return fleet.ErrAgain
	}
	return p.fleet.Admit(token, ask)
}

// retryable says whether a dial may succeed later.
func retryable(err error) bool { return errors.Is(err, fleet.ErrAgain) || libpq.Retryable(err) }
