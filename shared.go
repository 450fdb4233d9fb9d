package lifeguard

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"sync"

	"github.com/go-lifeguard/lifeguard/internal/handle"
)

// shared are the pools that were opened under an explicit pool_name.
var shared = sharedPools{pools: map[string]*Pool{}}

type sharedPools struct {
	mu    sync.Mutex       // before Pool.mu
	pools map[string]*Pool // guarded by mu
}

// sharedKey is what must be the same in two opens for them to share a pool. The DSN is kept as a hash, so that no
// password stays in memory for longer than the driver itself keeps it.
type sharedKey struct {
	dsn    [sha256.Size]byte
	parent driver.Driver
	config Config
}

func (k *sharedKey) differs(other *sharedKey) string {
	switch {
	case k.dsn != other.dsn:
		return "a different DSN"
	case !sameDriver(k.parent, other.parent):
		return "a different driver"
	case k.config != other.config:
		return "a different configuration"
	}
	return ""
}

// sameDriver compares drivers that may be of a type that cannot be compared.
func sameDriver(a, b driver.Driver) bool {
	ta := reflect.TypeOf(a)
	return ta == reflect.TypeOf(b) && (!ta.Comparable() || a == b)
}

// open joins the pool of that name, or makes it.
func (sp *sharedPools) open(d *wrappedDriver, cfg Config, dsn, driverDSN string) (*handle.Connector, error) {
	key := &sharedKey{dsn: sha256.Sum256([]byte(dsn)), parent: d.parent, config: cfg}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	maps.DeleteFunc(sp.pools, func(_ string, p *Pool) bool { return p.pool.Closed() })
	if p := sp.pools[cfg.PoolName]; p != nil {
		if diff := key.differs(p.sharedAs); diff != "" {
			return nil, fmt.Errorf("lifeguard: pool_name=%s is in use in this process with %s; "+
				"opens that share a pool must be the same in all, so give this one another pool_name", cfg.PoolName, diff)
		}
		if c := p.join(d, d.parent); c != nil {
			if names := d.options.ignored(); len(names) > 0 && p.options != d.options {
				p.log.Warn("lifeguard: the pool is open already, with the options of its first open; those given now are ignored",
					slog.String("pool", p.name), slog.Any("options", names))
			}
			return c, nil
		} // it has closed in this moment
	}
	p, err := d.newPool(cfg, driverDSN)
	if err != nil {
		return nil, err
	}
	p.sharedAs = key
	sp.pools[cfg.PoolName] = p
	return p.join(d, d.parent), nil
}

// singles are the pools of connections that are opened one by one, without a connector: one for each DSN.
type singles struct {
	mu sync.Mutex
	of map[[sha256.Size]byte]*single // guarded by mu
}

type single struct {
	connector *handle.Connector
	open      int           // guarded by singles.mu; connections, and calls that open one
	closed    chan struct{} // is closed after the pool; nil while it lives; guarded by singles.mu
}

func (s *singles) open(d *wrappedDriver, dsn string) (driver.Conn, error) {
	key := sha256.Sum256([]byte(dsn))
	of, err := s.join(key, func() (*handle.Connector, error) { return d.open(dsn) })
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
func (s *singles) join(key [sha256.Size]byte, open func() (*handle.Connector, error)) (*single, error) {
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
func (s *singles) leave(key [sha256.Size]byte, of *single) {
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
