//go:build !race

package docstest

const raceDetector = false
