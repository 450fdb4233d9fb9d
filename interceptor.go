package lifeguard

import (
	"slices"

	"github.com/ngrok/sqlmw"
)

// WithInterceptors sends every call into the wrapped driver through the given interceptors. The first is outermost, as if
// drivers wrapped by [sqlmw.Driver] were stacked. A context that an interceptor returns from a call comes back to it with
// the rows of the query, the end of the transaction, or the uses of the statement. An interceptor that returns rows of its
// own lets lifeguard find the driver's by [sqlmw.RowsUnwrapper].
//
// Interceptors see the calls of the application. They do not see lifeguard's own work: statements that it prepares for
// its cache, pings of connections that may have died, and resets between two checkouts. ConnExecContext and
// ConnQueryContext are called only on drivers that can run a query without preparing it, ConnPing only on those that
// have Ping. ConnectorConnect is called on a goroutine of the pool. Its context has the values of the caller's context, but
// not its end.
//
// Used more than once, the option adds to the interceptors given before.
func WithInterceptors(interceptors ...sqlmw.Interceptor) Option {
	return func(o *options) { o.interceptors = slices.Concat(o.interceptors, interceptors) }
}
