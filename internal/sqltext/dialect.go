package sqltext

// Dialect says by whose rules a query is read. The zero value, Other, is the
// one that is safe for every database.
type Dialect uint8

const (
	// Other reads a query whose database is unknown. What any common database
	// could take for a literal is one, "double quoted" names included.
	Other Dialect = iota

	// PostgreSQL has nested comments, $tag$ strings and E'' strings, and names
	// in double quotes.
	PostgreSQL

	// MySQL, and MariaDB, has strings in single and in double quotes, # comments
	// and names in backticks.
	MySQL

	// SQLite has names in double quotes, backticks and brackets. It takes a name
	// in double quotes for a string when there is no such column; one that stands
	// where a value is usual therefore counts as a literal.
	SQLite
)

// String returns the name of the database.
func (d Dialect) String() string {
	switch d {
	case PostgreSQL:
		return "PostgreSQL"
	case MySQL:
		return "MySQL"
	case SQLite:
		return "SQLite"
	default:
		return "other"
	}
}

// DialectOf returns the dialect of a database by its name in OpenTelemetry's db.system.name.
func DialectOf(system string) Dialect {
	switch system {
	case "postgresql":
		return PostgreSQL
	case "mysql", "mariadb":
		return MySQL
	case "sqlite":
		return SQLite
	default:
		return Other
	}
}
