package fleet_test

import (
	"os"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(memberEnvironment) != "" {
		runMember()
		return
	}
	os.Exit(pgtest.Run(m))
}
