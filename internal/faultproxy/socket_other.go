//go:build !linux

package faultproxy

import "net"

// hungUp is not known here before the end has been read: a session that replaces one that was just closed may count
// beside it.
func hungUp(*net.TCPConn) bool { return false }

const canFillBacklog = false

type backlog struct{}

func fillBacklog(*net.TCPListener, func(net.Addr)) (*backlog, error) { return &backlog{}, nil }
func (*backlog) drain(*net.TCPListener) error                        { return nil }
func (*backlog) close()                                              {}
