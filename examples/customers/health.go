package main

import (
	"context"
	"net/http"

	"github.com/go-lifeguard/lifeguard"
)

type healthReport struct {
	Status   string       `json:"status"` // "ok", or the code of what is wrong
	Message  string       `json:"message,omitempty"`
	Database databaseKind `json:"database"`
	Pool     *poolReport  `json:"pool,omitempty"`
}

type poolReport struct {
	Limit       int     `json:"limit"`
	Open        int     `json:"open"`
	InUse       int     `json:"in_use"`
	Idle        int     `json:"idle"`
	Waiting     int     `json:"waiting"`
	Acquired    uint64  `json:"acquired"`
	Waits       uint64  `json:"waits"`
	WaitSeconds float64 `json:"wait_seconds"`
	Timeouts    uint64  `json:"timeouts"`
	Canceled    uint64  `json:"canceled"`
	Opened      uint64  `json:"opened"`
	Closed      uint64  `json:"closed"`
}

// health says whether the service could answer a request now: it takes a
// connection from the pool like everybody else. It tells a load balancer where
// not to send requests; as a reason to kill the process it would be a poor
// one, since a full pool empties faster than a process restarts.
func (s *service) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	report := healthReport{Status: "ok", Database: s.database.kind}
	status := http.StatusOK
	if err := s.database.PingContext(ctx); err != nil {
		refused := refusalFor(err)
		status, report.Status, report.Message = refused.status, refused.Code, refused.Message
		s.log.Warn("not healthy", "error", refused.Code, "err", err)
	}
	// Taken after the ping, and whatever became of it: a full pool is when the
	// figures are wanted.
	if pool, ok := lifeguard.PoolOf(s.database.DB); ok {
		stats := pool.Stats()
		report.Pool = &poolReport{
			Limit:       stats.Limit,
			Open:        stats.Open,
			InUse:       stats.InUse,
			Idle:        stats.Idle,
			Waiting:     stats.Waiting,
			Acquired:    stats.Acquired,
			Waits:       stats.Waits,
			WaitSeconds: stats.WaitDuration.Seconds(),
			Timeouts:    stats.Timeouts,
			Canceled:    stats.Canceled,
			Opened:      stats.Opened,
			Closed:      stats.Closed,
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	if err := respond(w, status, report); err != nil {
		s.fail(w, r, err)
	}
}
