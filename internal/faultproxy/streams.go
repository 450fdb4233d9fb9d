package faultproxy

import (
	"encoding/binary"
	"sync/atomic"
)

// Codes of the messages that begin a connection in place of a protocol version.
const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
)

const readyForQuery = 'Z'

// maxPayload bounds what is collected of a message for the frontend hook; the rest is cut off.
const maxPayload = 1 << 20

// streams reads along with a connection, each direction in one goroutine.
type streams struct {
	link        *link
	negotiating atomic.Int32 // requests for encryption, each answered by a single byte

	client  splitter
	started bool // the client has sent its startup message; from then on messages have a type

	server splitter
	ready  bool // the server has sent ReadyForQuery
}

func (s *streams) fromClient(data []byte) {
	hook := s.link.proxy.frontend.Load()
	const tlsHandshake = 0x16
	for len(data) > 0 && !s.client.opaque {
		if !s.started && !s.client.begun && data[0] == tlsHandshake {
			s.client.opaque = true
			return
		}
		var complete bool
		data, complete = s.client.next(data, s.started, !s.started || hook != nil)
		if !complete {
			return
		}
		messageType, payload := s.client.header[0], s.client.payload
		if !s.started {
			s.begin(payload)
		}
		if hook != nil && s.client.collect {
			(*hook)(messageType, payload)
		}
	}
}

func (s *streams) begin(payload []byte) {
	if len(payload) < 4 {
		s.client.opaque = true
		return
	}
	switch binary.BigEndian.Uint32(payload) {
	case sslRequest, gssRequest:
		s.negotiating.Add(1)
	case cancelRequest:
		s.client.opaque = true
		s.link.proxy.began(s.link, true)
	default:
		s.started = true
		s.link.proxy.began(s.link, false)
	}
}

func (s *streams) toClient(data []byte) {
	for len(data) > 0 && !s.server.opaque {
		if !s.ready && !s.server.begun && s.negotiating.Load() > 0 {
			s.negotiating.Add(-1)
			s.server.opaque = data[0] == 'S' || data[0] == 'G' // encrypted from here on
			data = data[1:]
			continue
		}
		var complete bool
		data, complete = s.server.next(data, true, false)
		if complete && !s.ready && s.server.header[0] == readyForQuery {
			s.ready = true
			s.link.proxy.ready(s.link)
		}
	}
}

// endOfMessage cuts data, which the client gets next, where a message ends of which the client has a part already: at 0
// if there is none, or if this is no session, and at the end of data if the message goes on.
func (s *streams) endOfMessage(data []byte) int {
	if !s.ready || s.server.opaque || !s.server.begun {
		return 0
	}
	ahead := s.server // a copy
	rest, _ := ahead.next(data, true, false)
	return len(data) - len(rest)
}

// splitter cuts a stream into messages.
type splitter struct {
	header  [5]byte // type, 0 where there is none, and length
	have    int     // bytes of header
	left    int     // bytes of the payload still to come
	begun   bool    // a message has begun and is not complete
	collect bool    // the payload of this message is collected
	payload []byte
	opaque  bool // this is not a stream of messages, or not any more
}

// next takes a message, or what there is of it, off data.
func (s *splitter) next(data []byte, typed, collect bool) (rest []byte, complete bool) {
	if !s.begun {
		s.begun, s.collect, s.payload = true, collect, s.payload[:0]
		s.header, s.have, s.left = [5]byte{}, 0, 0
		if !typed {
			s.have = 1
		}
	}
	if s.have < len(s.header) {
		n := copy(s.header[s.have:], data)
		s.have += n
		data = data[n:]
		if s.have < len(s.header) {
			return nil, false
		}
		length := int64(binary.BigEndian.Uint32(s.header[1:]))
		if length < 4 {
			s.opaque = true
			return nil, false
		}
		s.left = int(length - 4)
	}
	n := min(s.left, len(data))
	if s.collect {
		s.payload = append(s.payload, data[:min(n, maxPayload-len(s.payload))]...)
	}
	s.left -= n
	if s.left > 0 {
		return nil, false
	}
	s.begun = false
	return data[n:], true
}
