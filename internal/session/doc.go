// Package session is one physical connection: what it can do, with the fallbacks that database/sql has for drivers that
// lack the newer interfaces, behind the interceptors and within socket_timeout.
//
// An Opener opens sessions through a *sql.DB of its own that keeps nothing idle. Whatever mistake a pool makes,
// database/sql holds the limit.
//
// The package refuses to know who uses a session and when: it knows no pool, no handle, no lease and no report.
package session
