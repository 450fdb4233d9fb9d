package callsite

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheap(t *testing.T) {
	if !frames {
		t.Skip("not on this architecture")
	}
	assert.True(t, Cheap, "stacks are not what they were: this version of Go needs another walk")
}

//go:noinline
func find(f *Finder) (*Site, []uintptr) {
	s := f.Find()
	if s == nil {
		s = f.Learn()
	}
	var pcs [4 * Depth]uintptr
	return s, slices.Clone(pcs[:runtime.Callers(1, pcs[:])])
}

// recursive calls find below as many frames of its own, half of which are inlined into the other half.
//
//go:noinline
func recursive(f *Finder, depth int) (*Site, []uintptr) {
	if depth > 0 {
		return between(f, depth)
	}
	return find(f)
}

func between(f *Finder, depth int) (*Site, []uintptr) { return recursive(f, depth-1) }

// A site is the stack as the runtime gives it, but for the place inside the function that asks.
func TestSite(t *testing.T) {
	for _, depth := range []int{0, 1, 5, 10, Depth, 4 * Depth} {
		f := &Finder{}
		var found [2]*Site
		var want []uintptr
		for i := range found {
			found[i], want = recursive(f, depth)
		}
		assert.Same(t, found[0], found[1], "depth %d", depth)
		got := found[0].PCs()
		require.NotEmpty(t, got)
		if depth < 10 {
			assert.Len(t, got, len(want), "depth %d", depth)
		}
		assert.Equal(t, names(want)[:len(got)], names(got), "depth %d", depth)
		assert.Equal(t, want[1:len(got)], got[1:], "depth %d", depth)
		assert.LessOrEqual(t, len(got), 2*Depth)
	}
}

func names(pcs []uintptr) (names []string) {
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		names = append(names, f.Function)
		if !more {
			return names
		}
	}
}

// Stacks that differ only far out are told apart as far as they are looked at, and never mistaken for one another.
func TestSitesDiffer(t *testing.T) {
	f := &Finder{}
	a, _ := recursive(f, 4)
	b, _ := recursive(f, 4)
	assert.NotSame(t, a, b, "two lines of this test")
	c, _ := recursive(f, 6)
	assert.NotSame(t, a, c)
	deepA, _ := recursive(f, 4*Depth)
	deepB, _ := recursive(f, 4*Depth)
	assert.Same(t, deepA, deepB, "beyond what is looked at")
	for _, name := range names(deepA.PCs()) {
		assert.NotContains(t, name, "TestSitesDiffer")
	}
}

// While stacks grow, shrink and move, and the collector runs, what is found is right.
func TestSitesWhileStacksMove(t *testing.T) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			f := &Finder{}
			for i := range 300 {
				grow(i % 50)
				s, want := recursive(f, i%20)
				if got := s.PCs(); !slices.Equal(want[1:len(got)], got[1:]) {
					t.Errorf("depth %d: %v, not %v", i%20, names(got), names(want))
					return
				}
			}
		})
	}
	callers.Wait()
	close(stop)
	wg.Wait()
}

//go:noinline
func grow(depth int) int {
	var room [512]byte
	if depth == 0 {
		return len(room)
	}
	room[depth] = byte(depth)
	return grow(depth-1) + int(room[depth])
}

func TestFindDoesNotAllocate(t *testing.T) {
	f := &Finder{}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if f.Find() == nil {
			f.Learn()
		}
	}))
}

func BenchmarkFind(b *testing.B) {
	for _, depth := range []int{0, 5, 10, 20} {
		b.Run(fmt.Sprintf("Depth=%d", depth), func(b *testing.B) { benchmarkFind(b, depth) })
	}
}

//go:noinline
func benchmarkFind(b *testing.B, depth int) {
	if depth > 0 {
		benchmarkFind(b, depth-1)
		return
	}
	f := &Finder{}
	b.ReportAllocs()
	for b.Loop() {
		if f.Find() == nil {
			f.Learn()
		}
	}
}
