//go:build race

package faultproxy

const raceEnabled = true
