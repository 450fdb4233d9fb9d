package lifeguard

import (
	"slices"

	"github.com/ngrok/sqlmw"
)

// WithInterceptors has every call into the wrapped driver go through the given interceptors, the first outermost, as if
// drivers wrapped by [sqlmw.Driver] were stacked. An interceptor gets, with what follows from a call (the rows of a
// query, the end of a transaction, the uses of a statement), the context that it returned from that call. The value it
// passes on is the next interceptor, or the driver. An interceptor that returns rows of its own lets lifeguard find the
// driver's by [sqlmw.RowsUnwrapper].
//
// Interceptors see what the application asked for. They do not see lifeguard's own work: statements that it prepares for
// its cache, pings of connections that may have died, and resets between two checkouts. ConnExecContext and
// ConnQueryContext are called only on drivers that can run a query without preparing it, ConnPing only on those that
// have Ping. ConnectorConnect is called on a goroutine of the pool, with the values of the context that asked for a
// connection, but not its end.
//
// Used more than once, the option adds to the interceptors given before.
func WithInterceptors(interceptors ...sqlmw.Interceptor) Option {
	return func(o *options) { o.interceptors = slices.Concat(o.interceptors, interceptors) }
}
