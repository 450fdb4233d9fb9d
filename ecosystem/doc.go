// Package ecosystem runs programs of the libraries that people put over database/sql: sqlx, GORM, bun, ent, the code that
// sqlc generates, goose, golang-migrate, River and squirrel. Each program runs on the plain driver and through lifeguard,
// on every database that the library supports, and both runs have to see the same. docs/libraries.md says what the tests
// found out. The packages below it test lifeguard on each driver (drivertest) and the names it gives to callers (callertest).
//
// It has no code but tests, in a module of its own so that lifeguard does not depend on these libraries. The programs know
// lifeguard as its users do, by the public API.
package ecosystem
