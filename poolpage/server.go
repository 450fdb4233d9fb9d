package poolpage

import (
	"errors"
	"fmt"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/activity"
)

// serverView tells what PostgreSQL says of the pool's connections.
type serverView struct {
	sessions *activity.View
	wrong    error // of the DSN
}

func newServerView(text string) *serverView {
	if text == "" { // lib/pq would go to a server of its own choice
		return &serverView{wrong: errors.New("WithServerView got an empty DSN; write one such as postgres://user@host/database")}
	}
	_, driverDSN, err := lifeguard.ParseDSN(text, lifeguard.DefaultConfig())
	if err != nil {
		return &serverView{wrong: err}
	}
	v, err := activity.New(driverDSN)
	return &serverView{sessions: v, wrong: err}
}

// close gives the connection back. A later look opens another.
func (v *serverView) close() {
	if v.wrong == nil {
		v.sessions.Close()
	}
}

// lookAt tells each slot what the server says of its connection.
func (v *serverView) lookAt(slots []Slot) *Server {
	if v.wrong != nil {
		return &Server{Error: v.wrong.Error()}
	}
	sessions, asked, err := v.sessions.Sessions()
	told := &Server{At: asked.UTC()}
	if err != nil {
		told.Error = err.Error()
		return told
	}
	ours := map[int64]*Slot{}
	for i := range slots {
		if s, ok := sessions[slots[i].PID]; ok && same(seconds(s.Age), slots[i].Age) {
			ours[slots[i].PID] = &slots[i]
		}
	}
	for pid, slot := range ours {
		s := sessions[pid]
		one := &ServerSession{State: s.State, For: seconds(s.For), WaitEvent: s.WaitEvent}
		for _, by := range s.Blockers {
			one.BlockedBy = append(one.BlockedBy, blocker(by, sessions, ours[by]))
		}
		slot.Server = one
	}
	return told
}

// same says whether a session of the server's can be a slot's: process numbers are used again, and another server has the
// same ones. A dial ends a while after its session has begun.
func same(session, slot Seconds) bool { return session > slot-2 && session < slot+15 }

func blocker(pid int64, sessions map[int64]activity.Session, slot *Slot) string {
	switch s, known := sessions[pid]; {
	case slot != nil && slot.Holder != nil && slot.Holder.Caller != "":
		return fmt.Sprintf("#%d, %s", slot.Serial, slot.Holder.Caller)
	case slot != nil:
		return fmt.Sprintf("#%d", slot.Serial)
	case known && s.Application != "":
		return fmt.Sprintf("%s, process %d, %s for %s", s.Application, pid, s.State, seconds(s.For))
	case known:
		return fmt.Sprintf("process %d, %s for %s", pid, s.State, seconds(s.For))
	}
	return fmt.Sprintf("process %d", pid) // 0 is a prepared transaction
}
