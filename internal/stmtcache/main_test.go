package stmtcache_test

import (
	"os"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

func TestMain(m *testing.M) { os.Exit(pooltest.Run(m)) }
