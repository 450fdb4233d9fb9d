//go:build !linux

package localserver

func memory() string { return "" }
