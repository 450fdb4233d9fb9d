package fleet

import "slices"

// action is something that can happen.
type action struct {
	process int
	name    string
	may     bool // it need not happen: nobody may count on it
}

// actions calls try for each thing that can happen, on a copy of the world.
func (w *world) actions(try func(action, *world)) {
	for i, p := range w.procs {
		if p.finished {
			w.lose(i, try)
			continue
		}
		do := func(name string, f func(w *world, p *process)) {
			next := w.clone()
			f(next, next.procs[i])
			try(action{i, name, false}, next)
		}
		w.sessionActions(p, do)
		w.poolActions(p, do)
		w.lose(i, try)
		if p.callers > 0 {
			next := w.clone()
			next.procs[i].call()
			try(action{i, "gets a caller", true}, next)
		}
	}
}

// lose has the fleet session of a process end.
func (w *world) lose(i int, try func(action, *world)) {
	if w.losses > 0 && w.procs[i].alive {
		next := w.clone()
		next.losses--
		next.die(next.procs[i])
		try(action{i, "loses its session", true}, next)
	}
}

// call has a caller come, who takes an idle connection or waits.
func (p *process) call() {
	p.callers--
	if i := slices.IndexFunc(p.conns, func(c conn) bool { return c.phase == idle }); i >= 0 {
		p.conns[i].phase, p.served = busy, p.served+1
		return
	}
	p.waiting++
}

// sessionActions are those of the goroutine that has the fleet session. It does one thing at a time, and asks the server
// after each if there is something to ask.
func (w *world) sessionActions(p *process, do func(string, func(*world, *process))) {
	switch {
	case p.session == 0:
		do("connects", func(w *world, p *process) { w.connect(p); w.ask(p) })
		return
	case !p.alive:
		do("notices", func(w *world, p *process) { w.notice(p) })
		return
	case p.pending != nil:
		do("is answered", func(w *world, p *process) {
			a, got := *p.pending, *p.reply
			p.pending, p.reply = nil, nil
			p.m.Answered(a, got)
			w.hear(p)
		})
		return
	}
	switch eager := p.eager(); {
	case eager:
		do("asks", func(w *world, p *process) { w.ask(p) })
	case len(p.inbox) == 0 && !w.unheard(p):
		do("polls", func(w *world, p *process) { p.m.Poll(true); w.ask(p) })
	}
	if len(p.inbox) > 0 {
		do("hears", func(w *world, p *process) { w.hear(p) })
	}
}

// unheard says whether somebody has not read yet what a process said: all read as often as it polls.
func (w *world) unheard(p *process) bool {
	return slices.ContainsFunc(w.procs, func(q *process) bool {
		return slices.ContainsFunc(q.inbox, func(s said) bool { return s.from == p.session })
	})
}

// hear has a process read all that others have said until now. The server hands words over in their order.
func (w *world) hear(p *process) {
	for _, s := range p.inbox {
		p.m.Heard(s.from, s.Say)
	}
	p.inbox = nil
	w.ask(p)
}

func (w *world) ask(p *process) {
	p.demand()
	if a, ok := p.m.Ask(); ok {
		p.pending = &a
		w.execute(p)
	}
}

// eager says whether there is something to ask.
func (p *process) eager() bool {
	m := p.m.clone()
	m.Demand(p.lacks(), p.waiting > 0)
	_, ok := m.Ask()
	return ok
}

func (w *world) poolActions(p *process, do func(string, func(*world, *process))) {
	if p.session != 0 && p.m.spare() > 0 && p.lacks() > 0 {
		do("dials", (*world).dial)
	}
	owed := p.m.Owed()
	for i, c := range p.conns {
		switch c.phase {
		case asking:
			do("is admitted", func(w *world, p *process) { w.admit(p, i) })
		case admitted:
			do("has opened", func(w *world, p *process) { p.opened(i) })
		case idle:
			if owed.Firm > 0 || owed.Rested > 0 || slices.Contains(owed.Doomed, c.serial) {
				do("closes an idle connection", func(w *world, p *process) { w.close(p, i) })
			}
		case busy:
			do("gets a connection back", func(w *world, p *process) { w.returned(p, i) })
		case leaving:
			do("is rid of a connection", func(w *world, p *process) { w.exit(p, i) })
		}
	}
}

func (w *world) dial(p *process) {
	if serial, number, ok := p.m.Take(); ok {
		w.next++
		p.conns = append(p.conns, conn{serial: serial, number: number, pid: w.next, badge: p.session})
	}
}

func (p *process) opened(i int) {
	c := &p.conns[i]
	p.m.Opened(c.serial, Conn{PID: c.pid, Badge: int32(c.badge)})
	p.serve(c)
}

// hasten does at once what nobody else can see or prevent: with a session that is not lost, a spare token becomes a connection.
func (w *world) hasten() {
	for _, p := range w.procs {
		if w.losses > 0 || p.session == 0 || !p.alive {
			continue
		}
		for p.m.spare() > 0 && p.lacks() > 0 {
			w.dial(p)
		}
		for i, c := range p.conns {
			if c.badge != p.session {
				continue
			}
			switch c.phase {
			case asking:
				w.admit(p, i)
				p.opened(i)
			case admitted:
				p.opened(i)
			}
		}
	}
}
