package localserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// Find returns the folder that holds all the named programs: the first such folder of PATH, else the first of the
// folders given. These may be patterns of filepath.Match, whose matches are tried from the highest version number down.
func Find(programs []string, folders ...string) (dir string, ok bool) {
	for _, pattern := range append(filepath.SplitList(os.Getenv("PATH")), folders...) {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			continue
		}
		slices.SortFunc(matches, func(a, b string) int { return slices.Compare(numbers(b), numbers(a)) })
		for _, dir := range matches {
			if !slices.ContainsFunc(programs, func(p string) bool {
				_, err := exec.LookPath(filepath.Join(dir, p))
				return err != nil
			}) {
				return dir, true
			}
		}
	}
	return "", false
}

// numbers are the numbers in a path, so that 9 sorts below 17.
func numbers(path string) []int {
	var ns []int
	for i := 0; i < len(path); i++ {
		start := i
		for i < len(path) && '0' <= path[i] && path[i] <= '9' {
			i++
		}
		if n, err := strconv.Atoi(path[start:i]); err == nil {
			ns = append(ns, n)
		}
	}
	return ns
}
