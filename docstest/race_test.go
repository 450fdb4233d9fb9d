//go:build race

package docstest

const raceDetector = true
