package observe

import (
	"net"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Database returns the attributes of a database. An argument that is not known is "". system is a name of db.system.name.
func Database(system, host, port, database string) []attribute.KeyValue {
	if system == "" {
		system = "other_sql"
	}
	all := []attribute.KeyValue{semconv.DBSystemNameKey.String(system)}
	if database != "" {
		all = append(all, semconv.DBNamespace(database))
	}
	if host != "" {
		all = append(all, semconv.ServerAddress(host))
		if number, err := strconv.Atoi(port); err == nil {
			all = append(all, semconv.ServerPort(number))
		}
	}
	return all
}

// TargetName returns the name of the database in spans of operations without a query: "BEGIN shop".
func TargetName(host, port, database string) string {
	switch {
	case database != "":
		return database
	case port != "":
		return net.JoinHostPort(host, port)
	default:
		return host
	}
}
