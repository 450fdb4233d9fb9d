package sqltext

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestDialectOf(t *testing.T) {
	for system, want := range map[string]Dialect{
		"postgresql": PostgreSQL, "mysql": MySQL, "mariadb": MySQL, "sqlite": SQLite,
		"": Other, "other_sql": Other, "microsoft.sql_server": Other,
	} {
		assert.Equal(t, want, DialectOf(system), system)
	}
}
