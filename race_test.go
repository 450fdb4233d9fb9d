//go:build race

package lifeguard_test

const raceEnabled = true
