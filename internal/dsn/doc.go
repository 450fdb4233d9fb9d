// Package dsn reads data source names: it takes parameters out of them, finds
// where they lead, and keeps their secrets out of errors.
//
// It knows four forms: URLs, libpq's keywords and values, settings between
// semicolons as go-mssqldb takes them, and everything else that may have a query
// part behind a "?". The form is told by the text alone, never by the driver.
//
// A DSN is never rebuilt. Parameters are cut out of the text, so every other byte
// reaches the driver as it was written. A password is never cut: where the text
// can be read in two ways, the parameters in question are marked as doubtful, and
// the caller refuses them.
//
// The package refuses to know which parameters there are, what they mean and what
// their defaults are: names come from the caller, and values go back as text. It
// judges no DSN, which is the driver's work. It opens no connection and no file,
// and resolves no name. Beside the DSN it reads the environment variables that
// lib/pq reads, for [Find] alone.
package dsn
