package observe

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
	"github.com/go-lifeguard/lifeguard/internal/sqltext/summary"
)

const (
	// maxShapes is how many queries are remembered. Programs have a few hundred. Those that write values into their
	// queries have no end of them, and remembering would only cost.
	maxShapes = 512

	// maxRemembered is how long a query may be to be remembered, in bytes.
	maxRemembered = 8 << 10
)

// shape holds everything that all operations with the same query have in common.
type shape struct {
	key       shapeKey
	name      string // of the span
	operation string
	text      string // the query, sanitised
	measured  measured
	callers   atomic.Pointer[callers]

	attributes []attribute.KeyValue // of all spans
}

type shapeKey struct {
	query    string
	prepared bool // the operation is to prepare it
}

// memory is what an observer remembers of the queries that it has shown, and how it reads new ones.
type memory struct {
	dialect sqltext.Dialect
	target  string               // of operations without a query
	skip    []string             // packages that are no callers
	base    []attribute.KeyValue // of all operations; not empty

	queries shapes
	verbs   shapes        // for metrics when there are too many queries
	others  [kinds]*shape // of the operations without a query
}

func (m *memory) init() {
	for kind, name := range operationNames {
		if name != "" {
			m.others[kind] = m.newShape(shapeKey{}, name, "", "")
		}
	}
}

func (m *memory) newShape(key shapeKey, operation, text, short string) *shape {
	s := &shape{key: key, name: short, operation: operation, text: text}
	if s.name == "" {
		s.name = strings.TrimSpace(operation + " " + m.target)
	}
	if s.name == "" {
		s.name = m.base[0].Value.AsString() // db.system.name
	}
	all := slices.Clone(m.base)
	if operation != "" {
		all = append(all, semconv.DBOperationName(operation))
	}
	if short != "" {
		all = append(all, semconv.DBQuerySummary(short))
	}
	s.measured = newMeasured(all)
	if text != "" {
		all = append(all, semconv.DBQueryText(text))
	}
	s.attributes = slices.Clip(all)
	return s
}

// shapes are the queries seen so far, up to a limit. They are copied at each change, so that to look one up takes no lock.
type shapes struct {
	mu    sync.Mutex // for changes
	known atomic.Pointer[map[shapeKey]*shape]
}

func (s *shapes) find(key shapeKey) (found *shape, full bool) {
	known := s.known.Load()
	if known == nil {
		return nil, false
	}
	return (*known)[key], len(*known) >= maxShapes
}

// add remembers a shape by its key.
func (s *shapes) add(added *shape) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[shapeKey]*shape{}
	if known := s.known.Load(); known != nil {
		if len(*known) >= maxShapes {
			return
		}
		for k, v := range *known {
			next[k] = v
		}
	}
	next[added.key] = added
	s.known.Store(&next)
}

// shapeOf describes operations of this kind.
func (m *memory) shapeOf(kind Kind, query string) *shape {
	if kind > Prepare {
		return m.others[kind]
	}
	key := shapeKey{query, kind == Prepare}
	s, full := m.queries.find(key)
	if s != nil {
		return s
	}
	operation, short := summary.Operation(m.dialect, query), summary.Of(m.dialect, query)
	if kind == Prepare {
		operation = operationNames[Prepare]
		if short != "" && len(short) < summary.MaxLen-len("PREPARE ") {
			short = "PREPARE " + short
		}
	}
	remembered := !full && len(query) <= maxRemembered
	if remembered {
		key.query = strings.Clone(query) // which may be a small part of something large
	}
	s = m.newShape(key, operation, sqltext.Sanitize(m.dialect, query), short)
	if remembered {
		m.queries.add(s)
	}
	return s
}

// shapeOfOperation does not read a query again of which Here has made the shape.
func (m *memory) shapeOfOperation(op *Operation) *shape {
	if c := op.Caller; c != nil && op.Kind <= Prepare && c.shape.key == (shapeKey{op.Query, op.Kind == Prepare}) {
		return c.shape
	}
	return m.shapeOf(op.Kind, op.Query)
}

// measuredAs returns the attributes of an operation in metrics: the summary of its query, or only its verb if there are
// so many queries that the metrics would have no end.
func (m *memory) measuredAs(kind Kind, query string) *measured {
	if kind > Prepare {
		return &m.others[kind].measured
	}
	s, full := m.queries.find(shapeKey{query, kind == Prepare})
	switch {
	case s != nil:
		return &s.measured
	case !full && len(query) <= maxRemembered:
		return &m.shapeOf(kind, query).measured
	case kind == Prepare:
		return &m.others[Prepare].measured
	}
	verb := summary.Operation(m.dialect, query)
	if s, _ = m.verbs.find(shapeKey{query: verb}); s == nil {
		s = m.newShape(shapeKey{query: verb}, verb, "", "")
		m.verbs.add(s)
	}
	return &s.measured
}
