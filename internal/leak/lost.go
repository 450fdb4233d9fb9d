package leak

import (
	"sync"
	"time"
)

// Ticket stands for one result, in case the garbage collector finds that before anybody closed it. Then nobody is left
// to return the connection that database/sql keeps for the result.
//
// The caller passes Lost and the ticket to runtime.AddCleanup, for an object that the user of the result alone refers to.
// It stops the cleanup when it drops a closed object. An object that is used again has its ticket filled again.
type Ticket struct {
	list *lostList

	// Written by Fill and Empty, and read after Lost: then nobody is left who could write.
	lease      Lease // nil while the ticket is empty
	checkout   uint64
	operations int
	alone      bool
}

// NewTicket gives an empty ticket, to be filled for each result; a nil Janitor gives a nil Ticket.
func (j *Janitor) NewTicket() *Ticket {
	if j == nil {
		return nil
	}
	return &Ticket{list: j.lost}
}

// Fill notes which operation gave the result. It is called while the operation is in progress, and nothing that can be
// reached from the lease may refer to the result until Empty: the runtime keeps the ticket while the result lives, and a filled
// ticket the lease.
//
// alone: no other result was open on the connection. Only then is the connection taken back when the result is lost.
func (t *Ticket) Fill(l Lease, checkout uint64, operations int, alone bool) {
	if t != nil {
		t.lease, t.checkout, t.operations, t.alone = l, checkout, operations, alone
	}
}

// Empty notes that the result is closed.
func (t *Ticket) Empty() {
	if t != nil {
		t.lease = nil
	}
}

// Lost says that the result is garbage. The runtime calls it outside of any testing/synctest bubble in which the pool may
// live, so it touches no channel and no timer. The janitor finds the ticket at its next look.
func (t *Ticket) Lost() {
	if t != nil {
		t.list.mu.Lock()
		defer t.list.mu.Unlock()
		t.list.tickets = append(t.list.tickets, t)
	}
}

// lostList has the tickets of lost results. It is all of a janitor that a ticket refers to. If a ticket referred to the
// janitor, the runtime would keep a dropped pool, its sessions and their results alive.
type lostList struct {
	mu      sync.Mutex
	tickets []*Ticket // guarded by mu
}

// collectLost deals with the results that were lost, and says whether there were any.
func (j *Janitor) collectLost(now int64) (found bool) {
	j.lost.mu.Lock()
	tickets := j.lost.tickets
	j.lost.tickets = nil
	j.lost.mu.Unlock()
	for _, t := range tickets {
		found = j.lose(t, now) || found
	}
	return found
}

// lose reports one lost result. It takes the connection back if that belonged to the result alone.
func (j *Janitor) lose(t *Ticket, now int64) bool {
	l := t.lease
	if l == nil {
		return false // closed, and garbage with its session
	}
	h, ok := l.Hold()
	if !ok || h.Checkout != t.checkout {
		return false // of an earlier checkout, which has ended all the same
	}
	w, age := j.watch(l, &h, now), now-h.Since
	r := Report{Hold: h, Held: time.Duration(age), Kind: LostRows, First: !w.leaked}
	j.lostRows.Add(1)
	if w.leaked {
		j.lostLater.Add(1)
	}
	owned := t.alone && !h.InTx && !h.Raw && j.cfg.Owned(h.Stack)
	if owned && l.Reclaim(t.checkout, t.operations) {
		j.took(l, r)
	} else {
		w.lost, w.leakAt = max(w.lost, t.operations), doubled(int64(j.cfg.Threshold), age)
		j.leaked(l, w, r)
	}
	return true
}

// suspectsLost says whether rows may be lost that were not found yet: nothing can end their context, and nothing was done
// for a second. Rows of a transaction cannot be found, because goroutines of database/sql keep them.
func (j *Janitor) suspectsLost(now int64) bool {
	for l := range j.cfg.Leases {
		h, ok := l.Hold()
		w := j.watches[l]
		known := w != nil && w.checkout == h.Checkout && w.lost == h.Operations
		if ok && h.Endless && !h.Running && !h.InTx && !h.Raw && h.quiet(now) >= int64(time.Second) && !known {
			return true
		}
	}
	return false
}
