package poolpage

import (
	"database/sql"
	"embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/look"
)

//go:embed assets/page.css assets/page.js
var assets embed.FS

// policy lets the page use its own files, and nothing inline or from elsewhere.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// handler serves the page of some pools.
type handler struct {
	pools   []*watched
	actions bool
	origin  *http.CrossOriginProtection
	servers servers
}

// Handler shows the pool behind db. It is mounted at a path that ends in a slash:
//
//	mux.Handle("/debug/pool/", poolpage.Handler(db))
//
// A router that does not tell its pattern in the request needs [http.StripPrefix] around the handler. A handle that was not
// opened through lifeguard is an error that the page shows.
//
// The handler looks at the pool once a second until the pool is closed. Between two looks it has no goroutine.
func Handler(db *sql.DB, opts ...Option) http.Handler {
	s := settings{handles: []*sql.DB{db}}
	for _, opt := range opts {
		opt(&s)
	}
	h := &handler{actions: s.actions, origin: http.NewCrossOriginProtection()}
	known := map[*lifeguard.Pool]bool{}
	for _, db := range s.handles {
		p, ok := lifeguard.PoolOf(db)
		if ok && known[p] {
			continue
		}
		known[p] = ok
		w := &watched{name: "not lifeguard's", server: s.server, actions: s.actions, next: make(chan struct{})}
		if ok {
			w.name, w.pool, w.at = p.Config().PoolName, p, db.Driver().(interface{ Look() *look.Pool }).Look()
		}
		h.add(w)
	}
	for _, w := range h.pools {
		w.others = h.pools
		w.tick()
	}
	return h
}

// add shows one more pool. Pools may have the same name, two users' on one database for example, and the page tells them
// apart by a number: a form must not change another pool than the one it stands beside.
func (h *handler) add(w *watched) {
	name := w.name
	for n := 2; slices.ContainsFunc(h.pools, func(other *watched) bool { return other.name == w.name }); n++ {
		w.name = fmt.Sprintf("%s (%d)", name, n)
	}
	h.pools = append(h.pools, w)
}

// ServeHTTP answers GET for the page, its files and its events, and POST for actions where they are on.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	path, slash := below(r)
	serve, method := h.page, http.MethodGet
	switch path {
	case "":
	case "page.css", "page.js":
		serve = func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, assets, "assets/"+path) }
	case "events":
		serve = h.events
	case "limit", "reset":
		if !h.actions {
			http.NotFound(w, r)
			return
		}
		serve, method = h.act, http.MethodPost
	default:
		http.NotFound(w, r)
		return
	}
	switch {
	case r.Method != method:
		header.Set("Allow", method)
		http.Error(w, "the page answers "+method+" here", http.StatusMethodNotAllowed)
	case slash:
		http.Redirect(w, r, r.URL.Path+"/", http.StatusMovedPermanently) // its files are named beside it
	default:
		serve(w, r)
	}
}

// below is the path below the pattern that led here. slash: the path lacks the slash at its end.
func below(r *http.Request) (path string, slash bool) {
	path = r.URL.Path
	_, prefix, _ := strings.Cut(r.Pattern, "/") // without method and host
	prefix, _, _ = strings.Cut("/"+prefix, "{")
	if prefix != "/" && path == strings.TrimSuffix(prefix, "/") {
		return "", true
	}
	if rest, ok := strings.CutPrefix(path, prefix); ok && strings.HasSuffix(prefix, "/") {
		return rest, false
	}
	return strings.TrimPrefix(path, "/"), false // behind http.StripPrefix
}

// page shows a pool in the form that the client asks for.
func (h *handler) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	accept := r.Header.Get("Accept")
	of := h.chosen(r)
	switch {
	case of == nil:
		http.Error(w, "no pool of that name is shown here", http.StatusNotFound)
	case strings.Contains(accept, "text/html"):
		of.writePage(w)
	case strings.Contains(accept, "application/json"):
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(h.report(r)) // the client has gone
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		writeTable(w, h.report(r))
	}
}

// report has the chosen pool, or all.
func (h *handler) report(r *http.Request) Report {
	rep := Report{At: time.Now().UTC(), Pools: []Pool{}}
	name := r.URL.Query().Get("pool")
	for _, w := range h.pools {
		if name == "" || w.name == name {
			rep.Pools = append(rep.Pools, w.latest().pool)
		}
	}
	return rep
}

// chosen is the pool that the request names, or the first; nil if there is none of that name.
func (h *handler) chosen(r *http.Request) *watched {
	name := r.FormValue("pool")
	for _, w := range h.pools {
		if name == "" || w.name == name {
			return w
		}
	}
	return nil
}
