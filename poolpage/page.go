package poolpage

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/look"
)

//go:embed assets/page.html
var pageText string

// glyphs tell states apart without colour. Each stands beside its word.
var glyphs = map[string]string{
	string(look.Idle): "○", string(look.Running): "●", string(look.Held): "◐", string(look.IdleInTx): "◆",
	string(look.Leaked): "▲", string(look.Checking): "◔", string(look.Opening): "◌", string(look.Closing): "×", string(look.NoToken): "⊘",
	string(LevelOK): "●", string(LevelLook): "▲", string(LevelTrouble): "■", string(LevelClosed): "×",
}

var pages = template.Must(template.New("page").Funcs(template.FuncMap{
	"glyph": func(state any) string { return glyphs[fmt.Sprint(state)] },
	"class": func(state string) string { return strings.ReplaceAll(state, " ", "-") },
	"clock": func(t time.Time) string { return t.Local().Format("15:04:05") },
	"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"none": func(s Seconds) string {
		if s == 0 {
			return "none"
		}
		return s.String()
	},
	"function": func(place string) string { name, _, _ := strings.Cut(place, " ("); return name },
	"line": func(place string) string {
		_, line, _ := strings.Cut(place, " (")
		return strings.TrimSuffix(line, ")")
	},
	"name": func(place string) string {
		name, _, _ := strings.Cut(place, " (")
		if _, inPackage, ok := strings.Cut(name, "."); ok && !strings.Contains(name, " ") {
			return inPackage
		}
		return name // "a goroutine started at database/sql"
	},
	"brief": brief,
}).Parse(pageText))

// panels of the page, each a template. The first look has them in the page, later ones in events.
var panels = []string{"head", "slots", "queue", "charts", "holders", "shapes", "leaks", "events"}

const (
	crowd = 60 // slots from which on cells are small
	// Cells and holders on the page. The table and the JSON have all.
	maxCells   = 600
	maxHolders = 100
)

// view is what a template sees.
type view struct {
	Pool
	At      time.Time
	Others  []string
	Actions bool
	Charts  []chart
	Cells   []Slot // of Slots, as many as fit
	Free    []struct{}
	More    int // slots without a cell
	Holding []Slot
	Opens   map[uint64]bool // the connections of Holding
	MoreOf  int             // holders that are left out
	Small   bool
	Groups  []group // of the queue
	Title   string
	HTML    map[string]template.HTML // of the panels
}

// group is the waiters of one place.
type group struct {
	Caller  string
	Count   int
	Longest Seconds
	Waiters []Waiter
}

func viewOf(w *watched, f *frame) *view {
	p := &f.pool
	v := &view{Pool: *p, At: time.Now(), Actions: w.actions, Charts: charts(p), Title: title(p), Small: p.Limit > crowd}
	if len(w.others) > 1 {
		for _, other := range w.others {
			v.Others = append(v.Others, other.name)
		}
	}
	v.Cells = p.Slots[:min(len(p.Slots), maxCells)]
	v.Free = make([]struct{}, max(min(p.Limit, maxCells)-len(p.Slots), 0))
	v.More = max(p.Limit, len(p.Slots)) - len(v.Cells) - len(v.Free)
	v.Holding, v.Opens = p.Holders(), map[uint64]bool{}
	v.MoreOf = max(len(v.Holding)-maxHolders, 0)
	v.Holding = v.Holding[:len(v.Holding)-v.MoreOf]
	for _, s := range v.Holding {
		v.Opens[s.Serial] = true
	}
	index := map[string]int{}
	for _, one := range p.Waiters {
		i, ok := index[one.Caller]
		if !ok {
			i = len(v.Groups)
			index[one.Caller] = i
			v.Groups = append(v.Groups, group{Caller: one.Caller, Longest: one.Waited})
		}
		v.Groups[i].Count++
		v.Groups[i].Waiters = append(v.Groups[i].Waiters, one)
	}
	return v
}

// title is what the browser's tab shows.
func title(p *Pool) string {
	if p.Error != "" {
		return "■ " + p.Name
	}
	t := fmt.Sprintf("%s %d/%d", glyphs[string(p.Level)], p.InUse, p.Limit)
	if p.Waiting > 0 {
		t += fmt.Sprintf(", %d waiting", p.Waiting)
	}
	return t + " · " + p.Name
}

// brief is the beginning of a query, for a line of a list.
func brief(query string) string {
	if runes := []rune(query); len(runes) > 300 {
		return string(runes[:299]) + "…"
	}
	return query
}

// renderPanels makes the parts of the page that change.
func (w *watched) renderPanels(f *frame) []panel {
	v := viewOf(w, f)
	made := make([]panel, len(panels))
	for i, key := range panels {
		made[i] = panel{key: key, html: render(key, v)}
	}
	return made
}

func render(name string, v *view) string {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, v); err != nil {
		return template.HTMLEscapeString(err.Error()) // a mistake of ours: the rest of the page goes on
	}
	return b.String()
}

// writePage writes the whole page, which needs no script to be read.
func (w *watched) writePage(rw http.ResponseWriter) {
	f := w.latest()
	v := viewOf(w, f)
	v.HTML = map[string]template.HTML{}
	for _, p := range f.panels {
		v.HTML[p.key] = template.HTML(p.html) // which a template has escaped
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	if f.pool.Error != "" && len(w.others) == 1 {
		rw.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = rw.Write([]byte(render("page", v))) // the client has gone
}
