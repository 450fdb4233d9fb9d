// Package fallback does for drivers that lack the newer interfaces of database/sql what database/sql itself does for them:
// operations without a context, arguments without names, transactions without options.
//
// The package refuses to keep anything: each function is one call into the driver. It knows no session and no pool.
package fallback
