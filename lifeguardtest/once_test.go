package lifeguardtest_test

import (
	"database/sql"
	"errors"
	"flag"
	"testing"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

var kills = flag.Int("kills", 100, "statements whose backend is terminated in the middle")

// A sequence does not roll back: it counts how often the statement was sent.
func TestAtMostOnce(t *testing.T) {
	db, err := sql.Open("lifeguard", pgtest.DSN(t)+"&connection_limit=2&at_most_once=true")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE SEQUENCE sent; CREATE TABLE calls (n bigint, killed bool)"); err != nil {
		t.Fatal(err)
	}
	unknown := 0
	for i := range *kills {
		_, err := db.Exec("INSERT INTO calls SELECT nextval('sent'), pg_terminate_backend(pg_backend_pid())")
		if err == nil {
			t.Fatal("the backend was not killed")
		}
		if i == 0 {
			t.Log(err)
		}
		if errors.Is(err, lifeguard.ErrOutcomeUnknown) {
			unknown++
		}
		var sent int
		if err := db.QueryRow("SELECT last_value FROM sent").Scan(&sent); err != nil {
			t.Fatal(err)
		}
		if sent != i+1 {
			t.Fatalf("after %d calls the statement was sent %d times", i+1, sent)
		}
	}
	if unknown != *kills {
		t.Errorf("%d of %d errors say that the outcome is unknown", unknown, *kills)
	}
}
