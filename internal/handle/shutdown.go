package handle

import (
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/pool"
)

// Drain refuses new callers and those who wait. The channel is closed when everything that the handle had is back.
func (c *Connector) Drain() <-chan struct{} { return c.client.Drain() }

// Force closes what the handle still holds, and gives the records of it. left says that some of what an earlier call has
// closed has not ended yet.
func (c *Connector) Force() (ended []leak.Hold, left bool) {
	c.shut.Store(true)
	var doomed []*lease
	for _, of := range c.client.Leases() {
		l := of.(*lease)
		if h, ok := l.Hold(); ok && l.doom(pool.ErrClosed) {
			doomed, ended = append(doomed, l), append(ended, h)
		}
	}
	for _, l := range doomed {
		l.s.Cut() // where the pool has the socket, what runs ends now; else at the holder's next step
	}
	return ended, c.client.Out() > 0
}
