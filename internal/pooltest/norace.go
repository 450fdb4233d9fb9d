//go:build !race

package pooltest

// RaceEnabled says that the race detector is compiled in. It allocates and slows everything down.
const RaceEnabled = false
