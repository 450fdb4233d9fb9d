package drivertest

import "testing"

func checkRandom(t *testing.T, target *target, n int, seed uint64) {}
