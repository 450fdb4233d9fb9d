package service

import (
	"context"
	"net/http"

	"github.com/go-lifeguard/lifeguard"
)

// HealthReport is the answer of /healthz.
type HealthReport struct {
	Status   string      `json:"status"` // "ok", or the code of what is wrong
	Message  string      `json:"message,omitempty"`
	Database Kind        `json:"database"`
	Pool     *PoolReport `json:"pool,omitempty"`
}

// PoolReport is the pool behind the service.
type PoolReport struct {
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

// Health says whether the service could answer a request now: it takes a
// connection from the pool like everybody else. It tells a load balancer where
// not to send requests; as a reason to kill the process it would be a poor
// one, since a full pool empties faster than a process restarts.
func (a API) Health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	report := HealthReport{Status: "ok", Database: a.Database.Kind}
	status := http.StatusOK
	if err := a.Database.PingContext(ctx); err != nil {
		refused := RefusalFor(err)
		status, report.Status, report.Message = refused.Status, refused.Code, refused.Message
		a.Log.Warn("not healthy", "error", refused.Code, "err", err)
	}
	// Taken after the ping, and whatever became of it: a full pool is when the
	// figures are wanted.
	if pool, ok := lifeguard.PoolOf(a.Database.DB); ok {
		stats := pool.Stats()
		report.Pool = &PoolReport{
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
	if err := Respond(w, status, report); err != nil {
		a.fail(w, r, err)
	}
}
