package localserver

import (
	"fmt"
	"os"
	"sync"
)

// Shared is one server for all tests of a process, started by the first test that asks for it.
type Shared[S any] struct {
	Start func() (S, error)
	Stop  func(S) error

	mu      sync.Mutex
	asked   bool
	server  S
	failure error // of Start; kept, so that every test reports it and only the first waits for it
}

// Server starts the server, unless it has been started already.
func (s *Shared[S]) Server() (S, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		s.asked = true
		s.server, s.failure = s.Start()
	}
	return s.server, s.failure
}

// Run is for TestMain: it runs the tests, then stops the server if one was started, and returns the exit code.
// Where it is not used, or does not get to its end, the server ends with the process.
func (s *Shared[S]) Run(m interface{ Run() int }) (code int) {
	defer func() {
		if err := s.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the server of the tests:", err)
			code = max(code, 1)
		}
	}()
	return m.Run()
}

func (s *Shared[S]) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked || s.failure != nil {
		return nil
	}
	s.asked = false
	return s.Stop(s.server)
}
