package lifeguard

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-lifeguard/lifeguard/internal/sqltext"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// shape is what all operations with the same query have in common.
type shape struct {
	name      string // of the span
	operation string
	text      string // the query, sanitised
	measured  measured
	callers   atomic.Pointer[callers]

	attributes []attribute.KeyValue // that all spans have
}

func (o *observer) newShape(operation, text, summary string) *shape {
	s := &shape{name: summary, operation: operation, text: text}
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

const (
	// maxShapes is how many queries are remembered. Programs have a few hundred; those that write values into their
	// queries have no end of them, and for them remembering would only cost.
	maxShapes = 512

	// maxRemembered is how long a query may be to be remembered, in bytes.
	maxRemembered = 8 << 10
)

// shapes are the queries seen so far, up to a limit. They are copied at each change, so that looking one up takes no
// lock.
type shapes struct {
	mu    sync.Mutex // for changes
	known atomic.Pointer[map[shapeKey]*shape]
}

type shapeKey struct {
	query    string
	prepared bool // the operation is to prepare it
}

func (s *shapes) find(key shapeKey) (found *shape, full bool) {
	known := s.known.Load()
	if known == nil {
		return nil, false
	}
	return (*known)[key], len(*known) >= maxShapes
}

func (s *shapes) add(key shapeKey, added *shape) {
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
	key.query = strings.Clone(key.query) // which may be a small part of something large
	next[key] = added
	s.known.Store(&next)
}

// shapeOf describes an operation.
func (o *observer) shapeOf(kind operationKind, query string) *shape {
	if kind > opPrepare {
		return o.others[kind]
	}
	key := shapeKey{query, kind == opPrepare}
	s, full := o.shapes.find(key)
	if s != nil {
		return s
	}
	d := o.pool.dialect
	operation, summary := sqltext.Operation(d, query), sqltext.Summary(d, query)
	if kind == opPrepare {
		operation = operationNames[opPrepare]
		if summary != "" && len(summary) < sqltext.MaxSummaryLen-len("PREPARE ") {
			summary = "PREPARE " + summary
		}
	}
	s = o.newShape(operation, sqltext.Sanitize(d, query), summary)
	if !full && len(query) <= maxRemembered {
		o.shapes.add(key, s)
	}
	return s
}
