package lifeguardtest_test

import (
	"database/sql"
	"os"
	"testing"

	_ "github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/lifeguardtest"
)

// The first thing to add to an existing project: the place where its tests open their handle.
func ExampleNoLeaks() {
	openDB := func(t *testing.T) *sql.DB {
		db, err := sql.Open("lifeguard", os.Getenv("TEST_DATABASE_URL"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		lifeguardtest.NoLeaks(t, db)
		return db
	}
	_ = openDB // called by each test
}
