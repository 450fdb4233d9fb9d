package assembly

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"sync"

	"github.com/go-lifeguard/lifeguard/internal/handle"
)

// Singles are the pools of connections that are opened one by one, without a connector: one for each DSN.
type Singles struct {
	mu sync.Mutex
	of map[[sha256.Size]byte]*single // guarded by mu
}

type single struct {
	connector *handle.Connector
	open      int           // guarded by Singles.mu; connections, and calls that open one
	closed    chan struct{} // is closed after the pool; nil while it lives; guarded by Singles.mu
}

// Open opens a connection. connector makes that of the DSN's pool.
func (s *Singles) Open(dsn string, connector func() (*handle.Connector, error)) (driver.Conn, error) {
	key := sha256.Sum256([]byte(dsn))
	of, err := s.join(key, connector)
	if err != nil {
		return nil, err
	}
	leave := func() { s.leave(key, of) }
	conn, err := of.connector.ConnectOnce(context.Background(), leave)
	if err != nil {
		leave()
		return nil, err
	}
	return conn, nil
}

// join counts one more connection of a DSN. It waits for a pool that is closing: both together would have more
// connections than the limit.
func (s *Singles) join(key [sha256.Size]byte, open func() (*handle.Connector, error)) (*single, error) {
	s.mu.Lock()
	for of := s.of[key]; of != nil; of = s.of[key] {
		if of.closed == nil {
			of.open++
			s.mu.Unlock()
			return of, nil
		}
		closed := of.closed
		s.mu.Unlock()
		<-closed
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	c, err := open()
	if err != nil {
		return nil, err
	}
	if s.of == nil {
		s.of = map[[sha256.Size]byte]*single{}
	}
	of := &single{connector: c, open: 1}
	s.of[key] = of
	return of, nil
}

// leave counts one connection less. The last one closes the pool.
func (s *Singles) leave(key [sha256.Size]byte, of *single) {
	s.mu.Lock()
	of.open--
	last := of.open == 0
	if last {
		of.closed = make(chan struct{})
	}
	s.mu.Unlock()
	if !last {
		return
	}
	_ = of.connector.Close() // as of a driver.Conn's Close, whose error database/sql drops
	s.mu.Lock()
	delete(s.of, key)
	s.mu.Unlock()
	close(of.closed)
}
