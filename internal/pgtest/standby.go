package pgtest

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/localserver"
)

// replicating are the settings of servers that can be primary and standby in turn.
var replicating = []string{"wal_level=replica", "max_wal_senders=4", "wal_keep_size=64MB"}

// StartPair starts a primary and a hot standby that follows it, for this test alone.
func StartPair(tb testing.TB) (primary, standby *Server) {
	tb.Helper()
	primary = Start(tb, replicating...)
	standby, err := primary.follower()
	if err != nil {
		tb.Fatalf("pgtest: a standby: %v", err)
	}
	tb.Cleanup(func() {
		if err := standby.remove(); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return primary, standby
}

// follower copies a server and starts the copy as its standby.
func (s *Server) follower() (*Server, error) {
	copied := func(standby *Server, bin string, _ *localserver.Account) error {
		err := standby.folder.Run(filepath.Join(bin, "pg_basebackup"), "-D", standby.folder.Path("data"), "-d", s.replicationDSN(),
			"--checkpoint=fast", "--no-sync")
		if err == nil {
			_, err = standby.folder.WriteFile("data/standby.signal", "")
		}
		return err
	}
	return launch(copied, append(replicating, "primary_conninfo="+s.replicationDSN()), "pg_basebackup")
}

func (s *Server) replicationDSN() string {
	return fmt.Sprintf("host=%s port=%d user=%s password=%s", s.Host(), s.Port(), role, password)
}

// Promote makes a standby a primary, and returns when it takes writes.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	if err := s.administrate("SELECT pg_promote()"); err != nil {
		tb.Fatalf("pgtest: promoting the standby: %v", err)
	}
}

// Follow starts a server that was stopped again, as a standby of another one.
func (s *Server) Follow(tb testing.TB, primary *Server) {
	tb.Helper()
	s.ours(tb)
	if _, err := s.folder.WriteFile("data/standby.signal", ""); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	s.args = append(s.args, "-c", "primary_conninfo="+primary.replicationDSN())
	s.Start(tb)
}
