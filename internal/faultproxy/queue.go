package faultproxy

import (
	"sync"
	"time"
)

// packet is what is under way in one direction: bytes, or, without any, the end.
type packet struct {
	data []byte
	end  Ending
	due  time.Time
}

// queue holds the packets under way between one reader and one writer. A channel would do, if its capacity could be
// counted in bytes.
type queue struct {
	mu      sync.Mutex
	packets []packet // guarded by mu
	bytes   int      // guarded by mu

	more, room chan struct{} // of capacity one: there is something to look at
}

func newQueue() queue {
	return queue{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push waits for room; false if done came first.
func (q *queue) push(pk packet, done <-chan struct{}) bool {
	for {
		q.mu.Lock()
		if q.bytes <= maxUnderWay {
			q.packets = append(q.packets, pk)
			q.bytes += len(pk.data)
			q.mu.Unlock()
			signal(q.more)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-done:
			return false
		}
	}
}

// pop waits for a packet; false if done came first.
func (q *queue) pop(done <-chan struct{}) (packet, bool) {
	for {
		q.mu.Lock()
		if len(q.packets) > 0 {
			pk := q.packets[0]
			q.packets[0] = packet{}
			q.packets = q.packets[1:]
			q.bytes -= len(pk.data)
			q.mu.Unlock()
			signal(q.room)
			return pk, true
		}
		q.mu.Unlock()
		select {
		case <-q.more:
		case <-done:
			return packet{}, false
		}
	}
}
