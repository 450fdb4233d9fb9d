package stmtcache

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// BenchmarkPostgres runs the same queries on the plain driver and on a cache in turn, and reports the ratio of the medians.
func BenchmarkPostgres(b *testing.B) {
	for _, bb := range []struct {
		name string
		text func(n int) string
	}{
		{"SameText", func(int) string { return "SELECT $1::int + 1" }},
		{"NewTexts", func(n int) string { return fmt.Sprintf("SELECT $1::int + %d", n) }},
		{"NoArguments", func(int) string { return "SELECT 1 + 1 AS n -- without arguments" }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p := newParty(b, pgtest.DSN(b))
			began := time.Now()
			p.shared.Now = func() int64 { return int64(time.Since(began)) }
			sessions := []*pgSession{plainSession(b, p.dsn), p.session()}
			var took [2][]time.Duration
			args := []any{1}
			if bb.name == "NoArguments" {
				args = nil
			}
			n := 0
			for b.Loop() {
				for i := range sessions {
					i ^= n & 1 // who comes second has a disadvantage
					text := bb.text(n)
					at := time.Now()
					sessions[i].get(text, args...)
					took[i] = append(took[i], time.Since(at))
				}
				n++
			}
			slices.Sort(took[0])
			slices.Sort(took[1])
			b.ReportMetric(float64(took[0][len(took[0])/2])/float64(took[1][len(took[1])/2]), "times-plain")
		})
	}
}
