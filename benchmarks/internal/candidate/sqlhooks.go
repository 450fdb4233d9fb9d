package candidate

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/qustavo/sqlhooks/v2"
)

// sqlhooksCandidate is qustavo's sqlhooks: functions called before and after queries.
type sqlhooksCandidate struct{}

func (sqlhooksCandidate) Name() string   { return "qustavo/sqlhooks" }
func (sqlhooksCandidate) Module() string { return "github.com/qustavo/sqlhooks/v2" }
func (sqlhooksCandidate) Note() string   { return "`Wrap` with hooks that do nothing" }

func (c sqlhooksCandidate) Open(_ context.Context, dsn string, s Settings) (Pool, error) {
	return overPQ(c, dsn, s)
}

func (sqlhooksCandidate) Over(c driver.Connector, s Settings) (*sql.DB, error) {
	return openDriver(sqlhooks.Wrap(wrappedDriver{c}, idleHooks{}), s), nil
}

type idleHooks struct{}

func (idleHooks) Before(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	return ctx, nil
}

func (idleHooks) After(ctx context.Context, _ string, _ ...any) (context.Context, error) {
	return ctx, nil
}
