package callsite

import (
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// both takes a stack in both ways.
//
//go:noinline
func both() (chain, pcs []uintptr) {
	chain, pcs = make([]uintptr, 500), make([]uintptr, 500)
	return chain[:Chain(chain)], pcs[:Capture(0, pcs)]
}

// below calls f with some frames of several kinds in between.
func below(depth int, f func()) {
	switch {
	case depth == 0:
		f()
	case depth%4 == 1:
		defer func() { below(depth-1, f) }()
	case depth%4 == 2:
		reflect.ValueOf(below).Call([]reflect.Value{reflect.ValueOf(depth - 1), reflect.ValueOf(f)})
	case depth%4 == 3:
		below(depth-1, f)
		runtime.KeepAlive(f)
	default:
		defer func() { _ = recover() }()
		defer below(depth-1, f)
		panic("frames of the runtime")
	}
}

// The chain has what Capture finds, in its order, except for what was inlined, and nothing beyond but wrappers.
func TestChainIsThePhysicalStack(t *testing.T) {
	for depth := range 20 {
		below(depth, func() {
			chain, pcs := both()
			require.NotEmpty(t, chain)
			at, missing := 0, 0
			for _, pc := range chain {
				if i := slices.Index(pcs[at:], pc); i >= 0 {
					at += i + 1
				} else {
					missing++
				}
			}
			assert.Equal(t, len(pcs), at, "the last of both is where the goroutine began")
			assert.LessOrEqual(t, missing, 2*(1+depth), "where the calls differ, in functions that may not be inlined")
		})
	}
}

func TestChainFillsWhatThereIs(t *testing.T) {
	assert.Zero(t, Chain(nil))
	all := make([]uintptr, 500)
	part := make([]uintptr, 3)
	for i, pcs := range [][]uintptr{all, part} {
		n := Chain(pcs)
		switch i {
		case 0:
			all = all[:n]
		case 1:
			assert.Equal(t, 3, n)
		}
	}
	require.Greater(t, len(all), 2)
	assert.Equal(t, all[1:3], part[1:3])
}

//go:noinline
func one() (chain, pcs []uintptr) { return both() }

//go:noinline
func two() (chain, pcs []uintptr) { return both() }

func inlined() (chain, pcs []uintptr) { return both() }

func TestReach(t *testing.T) {
	reach := func(chain, pcs []uintptr, function string) int {
		t.Helper()
		frames := runtime.CallersFrames(pcs)
		for {
			f, more := frames.Next()
			if strings.HasSuffix(f.Function, "."+function) {
				return Reach(chain, pcs[:upTo(pcs, f)])
			}
			require.True(t, more, "%s is not on the stack", function)
		}
	}
	chain, pcs := one()
	n := reach(chain, pcs, "one")
	require.Positive(t, n)
	assert.Equal(t, n+1, reach(chain, pcs, "TestReach"))
	assert.Equal(t, len(chain), Reach(chain, pcs))
	assert.Zero(t, Reach(chain[:n], pcs), "a chain that ends too early")
	assert.Zero(t, Reach(nil, pcs))

	// Two calls of one function are told apart, and so are two functions.
	seen := map[string]bool{}
	for _, f := range []func() (_, _ []uintptr){one, two, func() (_, _ []uintptr) { return one() }} {
		chain, pcs := f()
		key := ""
		for _, pc := range chain[:reach(chain, pcs, "TestReach")] {
			key += " " + runtime.FuncForPC(pc-1).Name()
		}
		assert.False(t, seen[key], key)
		seen[key] = true
	}

	// What was inlined is recognised by what it was inlined into, if Chain goes by frame pointers.
	chain, pcs = inlined()
	assert.Positive(t, reach(chain, pcs, "inlined"))
	assert.LessOrEqual(t, reach(chain, pcs, "inlined"), reach(chain, pcs, "TestReach"))
}

// Stacks grow and are moved while others are walked.
func TestChainBesideGrowingStacks(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for depth := range 200 {
				below(depth%40, func() {
					chain, pcs := both()
					if Reach(chain, pcs) != len(chain) || len(chain) == 0 {
						t.Errorf("depth %d: %d of %d entries lead to the end of the stack", depth, Reach(chain, pcs), len(chain))
					}
				})
				if depth%50 == 0 {
					runtime.GC() // which makes stacks smaller
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkChain(b *testing.B) {
	var pcs [16]uintptr
	b.ReportAllocs()
	for b.Loop() {
		Chain(pcs[:])
	}
}
