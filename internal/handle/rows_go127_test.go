//go:build go1.27

package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A scanningConnector opens connections whose rows are scanned by the driver.
type scanningConnector struct {
	driver.Connector
	calls *[]string
	fails error // of the second row
}

type scanningConn struct {
	driver.Conn
	scanningConnector
}

func (c scanningConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return scanningConn{conn, c}, err
}

func (c scanningConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return &scanningRows{c: c}, nil
}

type scanningRows struct {
	c   scanningConn
	row int
}

func (r *scanningRows) note(format string, args ...any) {
	*r.c.calls = append(*r.c.calls, fmt.Sprintf(format, args...))
}

func (r *scanningRows) Columns() []string         { return []string{"a", "b"} }
func (r *scanningRows) Close() error              { r.note("close"); return nil }
func (r *scanningRows) Next([]driver.Value) error { r.note("next"); return io.EOF }

func (r *scanningRows) NextRow() error {
	r.note("next row")
	switch r.row++; {
	case r.row == 2 && r.c.fails != nil:
		return r.c.fails
	case r.row > 3:
		return io.EOF
	}
	return nil
}

func (r *scanningRows) ScanColumn(ctx driver.ScanContext, index int, dest any) error {
	r.note("scan %d into %T", index, dest)
	if p, ok := dest.(*map[string]int); ok { // what database/sql could not
		*p = map[string]int{"row": r.row, "column": index}
		return nil
	}
	return sql.ConvertAssign(ctx, dest, int64(10*r.row+index))
}

// Rows that their driver scans are scanned by it, as without lifeguard.
func TestRowsColumnScanner(t *testing.T) {
	for _, fails := range []error{nil, errors.New("the server says no"), driver.ErrBadConn} {
		for _, reclaim := range []bool{false, true} {
			var told [2]string
			for i, wrapped := range []bool{false, true} {
				var calls []string
				var connector driver.Connector = scanningConnector{fakedriver.New().Connector(), &calls, fails}
				var db *sql.DB
				if !wrapped {
					db = sql.OpenDB(connector)
				} else {
					cfg := lifeguard.DefaultConfig()
					if reclaim {
						cfg.LeakReclaimAfter = cfg.LeakThreshold
					}
					var err error
					db, err = lifeguard.OpenDB(connector, lifeguard.WithConfig(cfg), pooltest.Quiet)
					require.NoError(t, err)
				}
				rows, err := db.Query("rows")
				require.NoError(t, err)
				for rows.Next() {
					var n int
					var m map[string]int
					err := rows.Scan(&n, &m)
					calls = append(calls, fmt.Sprint(n, m, err))
				}
				calls = append(calls, fmt.Sprint(rows.Err(), rows.Close()))
				var text string
				err = db.QueryRow("row").Scan(&text, new(any))
				calls = append(calls, fmt.Sprint(text, err))
				require.NoError(t, db.Close())
				told[i] = fmt.Sprintf("%q", calls)
			}
			assert.Equal(t, told[0], told[1])
			assert.Contains(t, told[0], "scan 1 into *map[string]int")
		}
	}
}
