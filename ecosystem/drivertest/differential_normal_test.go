package drivertest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// numbers replaces what is never the same twice by the order in which it was met in this script: clocks, numbers of
// processes and transactions, OIDs. A reading that comes again gets its number again, so a clock that stands still
// shows.
type numbers map[string]int

const (
	anyBegin = "\x01" // around a value of a column whose name begins with any_
	anyEnd   = "\x02"
)

var (
	anyValue   = regexp.MustCompile(anyBegin + `(?s)(.*?)` + anyEnd)
	clock      = regexp.MustCompile(`(\d{4}-\d\d-\d\d)[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)*)?`)
	timeOfDay  = regexp.MustCompile(`\b(\d\d:)?\d\d:\d\d\.\d+`) // what is left of a clock in another style
	serverMade = regexp.MustCompile(`(?i)\b(oid|pid|process|transaction|relation|database|tuple \(\d+,\d+\) of relation) (\d+)\b`)
	tempSchema = regexp.MustCompile(`\bpg_(toast_)?temp_\d+\b`)
	tuple      = regexp.MustCompile(`\btuple \(\d+,\d+\) in relation\b`)
	statement  = regexp.MustCompile(`(\bprepared statement \\*")\d+(\\*")`) // lib/pq numbers them
)

// settle gives an outcome in which these are replaced.
func (n numbers) settle(text string) string {
	text = anyValue.ReplaceAllStringFunc(text, func(v string) string { return n.of("any", v) })
	text = clock.ReplaceAllStringFunc(text, func(v string) string {
		// A day to either side, because time zones are as far apart as that.
		if day, err := time.Parse(time.DateOnly, v[:len(time.DateOnly)]); err != nil || time.Since(day).Abs() > 60*time.Hour {
			return v
		}
		return n.of("clock", v)
	})
	text = timeOfDay.ReplaceAllStringFunc(text, func(v string) string { return n.of("time", v) })
	text = serverMade.ReplaceAllStringFunc(text, func(v string) string {
		kind, number := v[:strings.LastIndexByte(v, ' ')], v[strings.LastIndexByte(v, ' ')+1:]
		if strings.HasPrefix(kind, "tuple") {
			kind = "tuple of relation"
		}
		return kind + " " + n.of(strings.ToLower(kind), number)
	})
	text = tuple.ReplaceAllString(text, "tuple in relation")
	text = statement.ReplaceAllString(text, "${1}n$2")
	return tempSchema.ReplaceAllString(text, "pg_${1}temp")
}

func (n numbers) of(kind, value string) string {
	key := kind + " " + value
	if n[key] == 0 {
		n["last "+kind]++
		n[key] = n["last "+kind]
	}
	return fmt.Sprintf("<%s %d>", kind, n[key])
}

func TestDifferentialNumbers(t *testing.T) {
	now := time.Now().UTC()
	first, second := now.Format(time.RFC3339Nano), now.Add(time.Second).Format("2006-01-02 15:04:05.999999-07")
	n := numbers{}
	assert.Equal(t, "<clock 1> and <clock 2>", n.settle(first+" and "+second))
	assert.Equal(t, "<clock 2>, <clock 1>", n.settle(second+", "+first), "a reading keeps its number")
	assert.Equal(t, "2020-02-29 12:00:00", n.settle("2020-02-29 12:00:00"), "a date of the script")
	assert.Equal(t, "expected end of input, got <time 1> UTC", n.settle("expected end of input, got 36:21.917273 UTC"))
	assert.Equal(t, "process <process 1> waits for transaction <transaction 1>, process <process 2>",
		n.settle("process 123 waits for transaction 123, process 124"))
	assert.Equal(t, "<any 1> <any 2> <any 1>", n.settle("\x017\x02 \x018\x02 \x017\x02"))
	assert.Equal(t, "pg_temp.items", n.settle("pg_temp_31.items"))
}
