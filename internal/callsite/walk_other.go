//go:build !((amd64 || arm64) && gc)

package callsite

func walk(*[Depth]uintptr) (n int, hash uint64) { return 0, 0 }

const frames = false
