package fleet

import "time"

// schedule is when a fleet session asks again without a reason but time.
type schedule struct {
	looked   time.Time // when the last look began
	polled   time.Time
	heard    time.Time     // when the session last heard what others had said
	hurry    time.Duration // until the next attempt to take a token that is coming free; 0 for none
	busy     bool          // tokens are missing
	below    bool          // and there are fewer than the share
	watchful bool          // here or elsewhere
}

// asked notes an exchange.
func (n *schedule) asked(a Ask, got Answer) {
	n.heard = time.Now()
	switch {
	case len(a.Release) > 0:
		n.hurry = firstHurry
	case len(got.Taken) > 0:
		n.hurry = 0
	}
}

// pause is how long there is nothing to do.
func (n *schedule) pause(now time.Time) time.Duration {
	period := lookTime
	if n.watchful {
		period = pollTime
	}
	pause := n.polled.Add(period).Sub(now)
	if !n.listens(now) {
		pause = min(pause, n.heard.Add(pollTime).Sub(now))
	}
	if n.busy && n.hurry > 0 {
		pause = min(pause, n.hurry)
	}
	return max(pause, 0)
}

// listens says whether words of the others are read as they come. A process that has its share must not be woken by each of
// them: in a fleet that is loaded everybody says all the time that more would be welcome.
func (n *schedule) listens(now time.Time) bool { return n.below || now.Sub(n.heard) >= pollTime }

// wait returns when something has changed, when others have said something, or when it is time to try again.
func (f *Fleet) wait(s *session, next *schedule) error {
	now := time.Now()
	timer := time.NewTimer(next.pause(now))
	defer timer.Stop()
	var said <-chan struct{}
	done := func() {}
	if next.listens(now) {
		said, done = s.input()
	}
	var spoken bool
	select {
	case <-f.ctx.Done():
	case <-f.wake:
	case <-said:
		spoken = true
	case <-timer.C:
	}
	done()
	now = time.Now()
	f.mu.Lock()
	switch {
	case now.Sub(next.polled) >= pollTime && (next.watchful || now.Sub(next.polled) >= lookTime):
		look := now.Sub(next.looked) >= lookTime
		if next.polled = now; look {
			next.looked = now
		}
		f.m.Poll(look)
		spoken = spoken || said == nil && !look
	case next.busy && next.hurry > 0:
		f.m.try = true
		if next.hurry *= 2; next.hurry > lastHurry {
			next.hurry = 0
		}
	}
	f.mu.Unlock()
	if spoken {
		return f.hear(s, next)
	}
	return nil
}

// hear reads what others have said: the server hands it over with the answer to any question.
func (f *Fleet) hear(s *session, next *schedule) error {
	next.heard = time.Now()
	if _, err := s.query("SELECT 1"); err != nil {
		return err
	}
	f.listen(s, next)
	f.settle()
	return nil
}
