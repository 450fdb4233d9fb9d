package localserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// OnFreePort calls start with a port of 127.0.0.1 that was free a moment ago, and again with another one for as long as
// the server's error shows that somebody else was faster.
//
// The ports are below those that operating systems take for outgoing connections. A server that is restarted on the same
// port would otherwise find it taken by a connection sometimes, most of all when its clients are busy trying to
// reconnect.
func OnFreePort(start func(port int) error) error {
	const lowest, highest, attempts = 20000, 32767, 50
	var err error
	for range attempts {
		port := lowest + rand.IntN(highest-lowest+1)
		var l net.Listener
		if l, err = net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err != nil {
			continue
		}
		l.Close()
		if err = start(port); err == nil || !strings.Contains(err.Error(), "ddress already in use") {
			return err
		}
	}
	return fmt.Errorf("no free port after %d attempts: %w", attempts, err)
}
