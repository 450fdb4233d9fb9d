package plot

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPaths(t *testing.T) {
	s := Series{0, 5, 5, 10, 20}
	assert.Equal(t, `<path class="a" d="M5 12H6V7H8V2H10"/>`, Paths(10, 12, 10, Line{Class: "a", Values: s}), "what is above the top is cut")
	assert.Equal(t, `<path class="b-area" d="M9 12L9 2H10L10 12Z"/><path class="b" d="M9 2H10"/>`,
		Paths(10, 12, 1, Line{Class: "b", Values: Series{1}, Area: true}))
	assert.Equal(t, `<path class="a" d=""/>`, Paths(10, 12, 10, Line{Class: "a", Area: true}))
	assert.Empty(t, Paths(10, 12, 0, Line{Class: "a", Values: Series{0}}))
	assert.Equal(t, 20.0, s.Highest())
	assert.Equal(t, 40.0, s.Sum())
	assert.Zero(t, Series(nil).Highest())
}
