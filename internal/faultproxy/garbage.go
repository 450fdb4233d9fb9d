package faultproxy

import (
	"encoding/binary"
	"math/rand/v2"
)

// garbage is something that no PostgreSQL says, for the middle of a conversation.
//
// None of it announces more than 64 MiB: clients get memory for the length that a message announces, and texts such as
// "HTTP/1.1" announce more than a gigabyte. None of it announces less than a message's own length either: lib/pq panics
// over that, and in the middle of a query leaves a goroutine behind that nobody can end. None of it is of a type that
// there is, because a client could take it for an answer.
func garbage() []byte {
	switch rand.IntN(4) {
	case 0: // how MySQL greets
		return append([]byte{0x4a, 0, 0, 0, 10}, "8.0.36\x00\x08\x00\x00\x00some salt\x00"...)
	case 1: // a TLS alert: handshake failure
		return []byte{0x15, 3, 1, 0, 2, 2, 40}
	case 2: // how HTTP/2 begins
		return []byte{0, 0, 0x12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 4, 0, 0x40, 0, 0}
	default:
		return nonsense("!%&/=?jkLmO")
	}
}

// greeting is garbage for the beginning of a conversation, where there is no answer that it could be taken for.
func greeting() []byte {
	switch rand.IntN(4) {
	case 0: // zeros, which announce less than nothing
		return make([]byte, 8+rand.IntN(100))
	case 1: // a type that there is, with anything in it
		return nonsense("RESKNTDCZAn123")
	default:
		return garbage()
	}
}

// nonsense is a message of one of the given types, of the length that it announces.
func nonsense(types string) []byte {
	b := make([]byte, 5+rand.IntN(2000))
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	b[0] = types[rand.IntN(len(types))]
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	return b
}
