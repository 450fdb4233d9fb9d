package lifeguard

import (
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
