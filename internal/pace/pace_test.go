package pace

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

func TestWindow(t *testing.T) {
	connected := Pace{}
	connected.Succeeded(5 * ms)
	for _, tt := range []struct {
		name          string
		pace          Pace
		waiting       int
		longest       int64
		open          int
		hold          int64
		want, failing int
	}{
		{"demand comes up", connected, 50, 0, 5, 2 * ms, 2, 1},
		{"the hold is not known", connected, 50, 0, 5, 0, 2, 1},
		{"after a step", connected, 50, 100 * ms, 5, 2 * ms, 4, 1},
		{"after three steps", connected, 50, 399 * ms, 5, 2 * ms, 16, 1},
		{"those whom the open ones will not have served", connected, 50, 0, 5, 100 * ms, 45, 1},
		{"nothing is open", connected, 50, 0, 0, 100 * ms, 2, 1},
		{"it has never connected", Pace{}, 50, 0, 0, 0, 2, 2},
		{"readings out of order", connected, 1, -ms, 1, 0, 2, 1},
	} {
		assert.Equal(t, tt.want, tt.pace.Window(tt.waiting, tt.longest, tt.open, tt.hold), tt.name)
		tt.pace.Failed(errors.New("refused"), sec, sec, false)
		assert.Equal(t, tt.failing, tt.pace.Window(tt.waiting, tt.longest, tt.open, tt.hold), tt.name+", after a failure")
	}
}

func TestBackoff(t *testing.T) {
	var p Pace
	refused := errors.New("refused")
	at := sec
	for _, want := range []int64{100, 200, 400, 500, 500} {
		p.Failed(refused, at, at+ms, false)
		assert.LessOrEqual(t, p.NotBefore(), at+want*ms)
		assert.GreaterOrEqual(t, p.NotBefore(), at+want*ms*8/10)
		at = p.NotBefore()
	}
	assert.Equal(t, sec, p.Failing())
	p.Failed(refused, at, at, true)
	assert.LessOrEqual(t, p.NotBefore(), at+100*ms, "a server that answers is asked again soon")

	before := p.NotBefore()
	p.GaveUp(at, nil)
	assert.Equal(t, before, p.NotBefore(), "the dial that takes its place may begin at once")
	p.Succeeded(ms)
	assert.Zero(t, p.Failing())
	assert.Zero(t, p.NotBefore())
}

func TestLost(t *testing.T) {
	var p Pace
	assert.Equal(t, int64(math.MaxInt64), p.Lost(0), "before the first success nothing tells lost from slow")
	p.Succeeded(ms)
	assert.Equal(t, sec, p.Lost(0))
	assert.Equal(t, sec, p.Lost(20*time.Second))
	assert.Equal(t, 400*ms, p.Lost(1200*time.Millisecond))
	assert.Equal(t, 200*ms, p.Lost(time.Millisecond))
	p.Succeeded(3 * sec)
	assert.Equal(t, 6*sec, p.Lost(time.Second), "dials are known to take long")
}

func TestOutage(t *testing.T) {
	var p Pace
	p.Began(sec)
	assert.Zero(t, p.Outage(), "it has never answered")
	p.Succeeded(ms)
	p.Began(5 * sec)
	p.Began(6 * sec)
	assert.Equal(t, 25*sec, p.Outage(), "counts from the first dial")
	var unfinished *UnfinishedError
	if assert.ErrorAs(t, p.Down(6*sec, 25*sec), &unfinished) {
		assert.Equal(t, 20*time.Second, unfinished.For)
	}
	refused := errors.New("refused")
	p.Failed(refused, 6*sec, 7*sec, false)
	assert.Equal(t, refused, p.Down(0, 25*sec))
	p.Open()
	assert.Zero(t, p.Outage())
}

func TestTrouble(t *testing.T) {
	var p Pace
	p.Succeeded(ms)
	assert.NoError(t, p.Trouble(0, sec, 2*sec), "nothing is being dialled")
	refused := errors.New("refused")
	p.Failed(refused, 3*sec, 3*sec, true)
	assert.Equal(t, refused, p.Trouble(4*sec, sec, 5*sec), "an error says more than a dial under way")
	p.Succeeded(ms)
	assert.Equal(t, refused, p.Trouble(4*sec, sec, 5*sec), "it came while the caller waited")
	err := p.Trouble(4*sec, 4*sec, 5*sec)
	assert.EqualError(t, err, "connecting has not finished after 1s")
	assert.NoError(t, errors.Unwrap(err))

	p.GaveUp(4*sec, &UnfinishedError{For: time.Second, Err: context.Canceled})
	assert.NoError(t, errors.Unwrap(p.Trouble(4*sec, 4*sec, 5*sec)), "it was given up, and nothing else")
	p.GaveUp(4*sec, &UnfinishedError{For: time.Second, Err: refused})
	assert.ErrorIs(t, p.Trouble(4*sec, 4*sec, 5*sec), refused, "what kept the dial that was given up")
}
