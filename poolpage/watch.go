package poolpage

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/look"
)

const (
	every = time.Second
	// fresh is how old a look may be for a request: whoever reloads all the time costs no more than that.
	fresh = 200 * time.Millisecond
	// slowest is how long a client may take for one event. One that is gone without a word ends by it.
	slowest = 10 * time.Second
)

const foreign = "This handle was not opened through lifeguard, so there is no pool to show. " +
	`Open it with lifeguard.Open, or with sql.Open("lifeguard", dsn).`

// watched is a pool that the page shows.
type watched struct {
	name    string          // its own on this page
	pool    *lifeguard.Pool // nil for a foreign handle, as at is
	at      *look.Pool
	past    ring
	server  *serverView // nil if nobody asked for it
	actions bool
	others  []*watched // all that the handler shows

	watchers atomic.Int32

	mu    sync.Mutex
	next  chan struct{} // guarded by mu; closed when a new frame is there
	frame *frame        // guarded by mu; the newest

	rendering sync.Mutex // held by whoever makes a frame; before mu
}

// frame is a look as all watchers get it.
type frame struct {
	made   time.Time
	number int
	pool   Pool
	panels []panel
	change func() []byte // the event for all who have the frame before, made once
}

// panel is a part of the page. since is the frame in which it last changed.
type panel struct {
	key, html string
	since     int
}

// tick looks at the pool and sets the next tick, until the pool is closed. Each runs on a goroutine of its timer.
func (w *watched) tick() {
	if w.pool == nil {
		return
	}
	closed := w.at.Closed()
	w.past.take(w.at, w.pool.Stats().Acquired, time.Now())
	if !closed {
		time.AfterFunc(every, w.tick)
	} else if w.server != nil && !slices.ContainsFunc(w.others, (*watched).open) {
		w.server.close()
	}
	if w.watchers.Load() == 0 {
		return
	}
	// A frame that takes longer than a second, because of the server, is not made twice. The last one is made all the same,
	// because nothing wakes the watchers after it.
	if !w.rendering.TryLock() {
		if closed {
			time.AfterFunc(every, w.tick)
		}
		return
	}
	defer w.rendering.Unlock()
	w.render()
}

// open says whether there is a pool that has not ended.
func (w *watched) open() bool { return w.pool != nil && !w.at.Closed() }

// latest gives a frame that is fresh. One from before the end of the pool is not: the tick that noticed the end may have
// seen nobody to wake.
func (w *watched) latest() *frame {
	w.rendering.Lock()
	defer w.rendering.Unlock()
	w.mu.Lock()
	f := w.frame
	w.mu.Unlock()
	if f != nil && time.Since(f.made) < fresh && (w.open() || w.pool == nil || f.pool.Level == LevelClosed) {
		return f
	}
	return w.render()
}

// render makes a frame and wakes all watchers. The caller holds rendering.
func (w *watched) render() *frame {
	f := &frame{number: 1}
	if w.pool == nil {
		f.pool = Pool{Name: w.name, Error: foreign, Level: LevelTrouble, Verdict: foreign}
	} else {
		f.pool = report(w.pool, w.at, &w.past)
		f.pool.Name = w.name
		if w.server != nil && f.pool.Level != LevelClosed {
			f.pool.Server = w.server.lookAt(f.pool.Slots)
		}
	}
	w.mu.Lock()
	before := w.frame
	w.mu.Unlock()
	if before != nil {
		f.number = before.number + 1
	}
	f.panels = w.renderPanels(f)
	for i := range f.panels {
		f.panels[i].since = f.number
		if before != nil && before.panels[i].html == f.panels[i].html {
			f.panels[i].since = before.panels[i].since
		}
	}
	f.change = sync.OnceValue(func() []byte { return f.encode(f.number - 1) })
	f.made = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frame = f
	close(w.next)
	w.next = make(chan struct{})
	return f
}

// newest is the frame to send, and what is closed when there is another.
func (w *watched) newest() (*frame, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frame, w.next
}

// events sends the panels that have changed, at each look, until the client leaves, the server shuts down, or the pool
// is closed. It runs on the request's goroutine and starts none.
func (h *handler) events(rw http.ResponseWriter, r *http.Request) {
	w := h.chosen(r)
	if w == nil || w.pool == nil {
		http.NotFound(rw, r)
		return
	}
	w.watchers.Add(1)
	defer w.watchers.Add(-1)
	over := h.servers.shutdown(r)
	out := http.NewResponseController(rw)
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("X-Accel-Buffering", "no") // of nginx
	if r.ProtoMajor == 1 {
		rw.Header().Set("Connection", "close") // its deadline would outlive the stream, and cut a later answer
	}
	w.latest()
	for sent := 0; ; {
		f, next := w.newest()
		_ = out.SetWriteDeadline(time.Now().Add(slowest)) // servers that cannot have other ways to end
		if _, err := rw.Write(f.event(sent)); err != nil || out.Flush() != nil || f.pool.Level == LevelClosed {
			return
		}
		sent = f.number
		select {
		case <-next:
		case <-r.Context().Done():
			return
		case <-over:
			return
		}
	}
}

// event is what the page's script gets.
type event struct {
	Title  string            `json:"title"`
	Panels map[string]string `json:"panels"`
}

// event is what a watcher gets who has had the frame of that number.
func (f *frame) event(sent int) []byte {
	if sent == f.number-1 {
		return f.change()
	}
	return f.encode(sent)
}

func (f *frame) encode(sent int) []byte {
	e := event{Title: title(&f.pool), Panels: map[string]string{}}
	for _, p := range f.panels {
		if p.since > sent {
			e.Panels[p.key] = p.html
		}
	}
	var b bytes.Buffer
	b.WriteString("data: ")
	enc := json.NewEncoder(&b) // ends with a line break, and has no other
	enc.SetEscapeHTML(false)
	_ = enc.Encode(e) // strings, to memory
	b.WriteByte('\n')
	return b.Bytes()
}

// servers are those that the handler serves on, so that a watcher does not keep one from shutting down.
type servers struct {
	mu   sync.Mutex
	over map[*http.Server]chan struct{} // guarded by mu
}

// shutdown gives what is closed when the request's server begins to shut down; nil, which is never, if it is not known.
func (s *servers) shutdown(r *http.Request) <-chan struct{} {
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = map[*http.Server]chan struct{}{}
	}
	over := s.over[server]
	if over == nil {
		over = make(chan struct{})
		s.over[server] = over
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(over) }))
	}
	return over
}
