package observe

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Slow and failed operations are counted also where neither spans nor log lines are asked for.
func TestTallies(t *testing.T) {
	o := New(Config{Slow: 100 * time.Millisecond})
	defer o.Close()
	for i := range 100 {
		o.Ended(t.Context(), &Operation{Kind: Query, Query: fmt.Sprintf("SELECT %d", i), Took: time.Duration(i+1) * 10 * time.Millisecond})
	}
	o.Ended(t.Context(), &Operation{Kind: Exec, Query: "DELETE FROM t", Took: time.Millisecond, Err: errors.New("in use")})
	o.Ended(t.Context(), &Operation{Kind: Commit, Took: time.Second})
	o.Ended(t.Context(), &Operation{Kind: Connect, Took: time.Hour}) // no query
	all := o.Tallies()
	require.Len(t, all, 3)
	assert.Equal(t, "SELECT ?", all[0].Query)
	assert.EqualValues(t, 91, all[0].Slow, "nine were fast")
	assert.Zero(t, all[0].Errors)
	assert.Equal(t, time.Second, all[0].Max)
	assert.Equal(t, 550*time.Millisecond, all[0].Sum/91)
	assert.InEpsilon(t, 955*time.Millisecond, all[0].Took.Quantile(0.95), 0.13)
	assert.Contains(t, all[0].Caller.Function, "TestTallies")
	assert.Equal(t, "COMMIT", all[1].Operation)
	assert.Equal(t, "DELETE FROM t", all[2].Query)
	assert.EqualValues(t, 1, all[2].Errors)
	assert.Zero(t, all[2].Slow)
	assert.Equal(t, "_OTHER", all[2].LastError)
}

func TestTalliesForgetTheOldest(t *testing.T) {
	o := New(Config{Slow: time.Millisecond})
	defer o.Close()
	at := time.Now()
	for i := range maxTallies + 10 {
		o.Ended(t.Context(), &Operation{Kind: Exec, Query: fmt.Sprintf("DELETE FROM t%d", i), Took: time.Second, At: at.Add(time.Duration(i))})
	}
	all := o.Tallies()
	assert.Len(t, all, maxTallies)
	for _, one := range all {
		assert.NotEqual(t, "DELETE FROM t0", one.Query)
	}
}
