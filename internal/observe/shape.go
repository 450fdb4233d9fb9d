package observe

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
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

func (o *Observer) newShape(key shapeKey, operation, text, summary string) *shape {
	s := &shape{key: key, name: summary, operation: operation, text: text}
	if s.name == "" {
		s.name = strings.TrimSpace(operation + " " + o.target)
	}
	if s.name == "" {
		s.name = o.base[0].Value.AsString() // db.system.name
	}
	all := slices.Clone(o.base)
	if operation != "" {
		all = append(all, semconv.DBOperationName(operation))
	}
	if summary != "" {
		all = append(all, semconv.DBQuerySummary(summary))
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
func (o *Observer) shapeOf(kind Kind, query string) *shape {
	if kind > Prepare {
		return o.others[kind]
	}
	key := shapeKey{query, kind == Prepare}
	s, full := o.shapes.find(key)
	if s != nil {
		return s
	}
	operation, summary := sqltext.Operation(o.dialect, query), sqltext.Summary(o.dialect, query)
	if kind == Prepare {
		operation = operationNames[Prepare]
		if summary != "" && len(summary) < sqltext.MaxSummaryLen-len("PREPARE ") {
			summary = "PREPARE " + summary
		}
	}
	remembered := !full && len(query) <= maxRemembered
	if remembered {
		key.query = strings.Clone(query) // which may be a small part of something large
	}
	s = o.newShape(key, operation, sqltext.Sanitize(o.dialect, query), summary)
	if remembered {
		o.shapes.add(s)
	}
	return s
}

// shapeOfOperation does not read a query again of which Here has made the shape.
func (o *Observer) shapeOfOperation(op *Operation) *shape {
	if c := op.Caller; c != nil && op.Kind <= Prepare && c.shape.key == (shapeKey{op.Query, op.Kind == Prepare}) {
		return c.shape
	}
	return o.shapeOf(op.Kind, op.Query)
}

// measuredAs returns the attributes of an operation in metrics: the summary of its query, or only its verb if there are
// so many queries that the metrics would have no end.
func (o *Observer) measuredAs(kind Kind, query string) *measured {
	if kind > Prepare {
		return &o.others[kind].measured
	}
	s, full := o.shapes.find(shapeKey{query, kind == Prepare})
	switch {
	case s != nil:
		return &s.measured
	case !full && len(query) <= maxRemembered:
		return &o.shapeOf(kind, query).measured
	case kind == Prepare:
		return &o.others[Prepare].measured
	}
	verb := sqltext.Operation(o.dialect, query)
	if s, _ = o.verbs.find(shapeKey{query: verb}); s == nil {
		s = o.newShape(shapeKey{query: verb}, verb, "", "")
		o.verbs.add(s)
	}
	return &s.measured
}
