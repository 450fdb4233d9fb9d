package fleet

import (
	"fmt"
	"hash/maphash"
	"slices"
)

// graph is all worlds that can come of one, and the steps between them.
type graph struct {
	seeds  [2]maphash.Seed
	enc    encoder
	known  map[[2]uint64]uint32
	parent []uint32
	step   []uint8 // which of the parent's actions led here
	calm   []bool  // nobody waits

	from, to []uint32 // steps that happen sooner or later
	optional int      // others
}

func newGraph() *graph {
	return &graph{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, known: map[[2]uint64]uint32{}}
}

// add gives the number of a world, and whether it is a new one.
func (g *graph) add(w *world, parent uint32, step int) (n uint32, isNew bool) {
	b := g.enc.key(w)
	key := [2]uint64{maphash.Bytes(g.seeds[0], b), maphash.Bytes(g.seeds[1], b)}
	if n, ok := g.known[key]; ok {
		return n, false
	}
	n = uint32(len(g.parent))
	g.known[key] = n
	g.parent, g.step = append(g.parent, parent), append(g.step, uint8(step))
	g.calm = append(g.calm, w.calm())
	return n, true
}

// search finds all worlds that can come of the first, and stops at one in which a promise does not hold.
func (g *graph) search(b bounds) (wrong string, way []string) {
	type found struct {
		*world
		n uint32
	}
	first := b.first()
	n, _ := g.add(first, 0, 0)
	queue := []found{{first, n}}
	for len(queue) > 0 {
		e := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		step := 0
		e.actions(func(a action, next *world) {
			next.tidy()
			n, isNew := g.add(next, e.n, step)
			step++
			if a.may {
				g.optional++
			} else if n != e.n {
				g.from, g.to = append(g.from, e.n), append(g.to, n)
			}
			if !isNew || wrong != "" {
				return
			}
			if wrong = next.wrong() + next.bare(); wrong != "" {
				way = g.way(b, n)
			}
			queue = append(queue, found{next, n})
		})
		if wrong != "" {
			return wrong, way
		}
	}
	return "", nil
}

// way is what happened until a world, and what it looks like.
func (g *graph) way(b bounds, n uint32) (names []string) {
	var steps []uint8
	for ; n != 0; n = g.parent[n] {
		steps = append(steps, g.step[n])
	}
	w := b.first()
	for _, step := range slices.Backward(steps) {
		i := uint8(0)
		w.actions(func(a action, next *world) {
			if i == step {
				next.tidy()
				w, names = next, append(names, fmt.Sprintf("%d %s", a.process, a.name))
			}
			i++
		})
	}
	for _, p := range w.procs {
		names = append(names, fmt.Sprintf("%+v\n  %+v", *p, *p.m))
	}
	return append(names, fmt.Sprint(w.locks))
}

// stuck counts the worlds from which no steps that have to happen lead to one in which nobody waits, and gives the way to
// the first of them. Where there is none, everybody is served in the end: whatever happens, such a step stays possible, and
// sooner or later it is made.
func (g *graph) stuck(b bounds) (count int, way []string) {
	begin := make([]uint32, len(g.parent)+1) // of a world's steps, by where they lead to
	for _, to := range g.to {
		begin[to+1]++
	}
	for i := range len(g.parent) {
		begin[i+1] += begin[i]
	}
	back, next := make([]uint32, len(g.from)), slices.Clone(begin)
	for i, to := range g.to {
		back[next[to]] = g.from[i]
		next[to]++
	}
	served := slices.Clone(g.calm)
	var queue []uint32
	for n, calm := range g.calm {
		if calm {
			queue = append(queue, uint32(n))
		}
	}
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, from := range back[begin[n]:begin[n+1]] {
			if !served[from] {
				served[from] = true
				queue = append(queue, from)
			}
		}
	}
	for n, ok := range served {
		if !ok {
			if count++; count == 1 {
				way = g.way(b, uint32(n))
			}
		}
	}
	return count, way
}
