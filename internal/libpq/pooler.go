package libpq

import (
	"errors"
	"fmt"

	"github.com/lib/pq"
)

const poolerHint = "; prepared statements do not survive a pooler in transaction mode: " +
	"if there is one, such as PgBouncer, add pgbouncer=true to the DSN"

// ExplainStatement adds to an error by which the server says that it does not know a statement, or knows another by its name,
// what may be the cause. lib/pq's errors keep their type.
func ExplainStatement(k Kind, err error) error {
	if err == nil || k != LibPQ && k != PgxStdlib {
		return err
	}
	if code := Code(err); code != "26000" && code != "42P05" {
		return err
	}
	var e *pq.Error
	switch {
	case !errors.As(err, &e):
		return fmt.Errorf("%w%s", err, poolerHint)
	case e.Where != "": // a function's own
		return err
	}
	explained := *e
	explained.Message += poolerHint
	return &explained
}
