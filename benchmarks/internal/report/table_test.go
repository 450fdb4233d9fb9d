package report

import (
	"math"
	"strings"
	"testing"
)

func example() *Table {
	t := &Table{
		Title: "Example", Baseline: "plain",
		Columns: []Column{
			{Name: "time", Unit: Seconds, Better: Lower},
			{Name: "rate", Unit: PerSecond, Better: Higher},
			{Name: "share", Unit: Percent},
		},
	}
	for _, v := range []struct {
		name                string
		time, rate, percent []float64
	}{
		{"lifeguard", []float64{0.002, 0.004}, []float64{1200, 1000}, []float64{0.5, 0.5}},
		{"plain", []float64{0.001, 0.002}, []float64{1000, 1000}, []float64{1, 1}},
	} {
		for i := range v.time {
			t.Add(Row{Candidate: v.name}, "time", v.time[i])
			t.Add(Row{Candidate: v.name}, "rate", v.rate[i])
			t.Add(Row{Candidate: v.name}, "share", v.percent[i])
		}
	}
	t.Missing(Row{Candidate: "other"}, "time", "it has no clock")
	t.LeaveOut([]string{"x", "y"}, "they are like plain")
	t.Sort(nil, []string{"plain", "lifeguard", "other"})
	return t
}

func TestTableAsMarkdown(t *testing.T) {
	var b strings.Builder
	if _, err := example().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	const want = `**Example**

|  | time | rate | share |
| --- | ---: | ---: | ---: |
| plain | 1.5 ms ±33 % | 1,000/s ±0 % | 100 % |
| **lifeguard** | 3 ms ±33 %, **×2.00** | 1,100/s ±9 %, **×1.10** | 50 % |
| other | — | — | — |

— other: it has no clock. x, y: they are like plain.
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestVariantsAreNamedOnce(t *testing.T) {
	table := &Table{Baseline: "plain", Variants: "load", Columns: []Column{{Name: "n"}}}
	for _, row := range []Row{{"2", "plain"}, {"1", "b"}, {"1", "plain"}, {"2", "b"}} {
		table.Add(row, "n", 1)
	}
	table.Sort([]string{"1", "2"}, []string{"plain", "b"})
	var b strings.Builder
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	const want = `| load |  | n |
| --- | --- | ---: |
| 1 | plain | 1 |
|  | b | 1 |
| 2 | plain | 1 |
|  | b | 1 |
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestLosses(t *testing.T) {
	table := &Table{Baseline: "plain", Columns: []Column{
		{Name: "time", Better: Lower}, {Name: "rate", Better: Higher}, {Name: "close", Better: Lower},
		{Name: "undecided", Better: Lower}, {Name: "neither"},
	}}
	add := func(name, column string, values ...float64) {
		for _, v := range values {
			table.Add(Row{"v", name}, column, v)
		}
	}
	add("plain", "time", 1, 1, 1)
	add("peer", "time", 2, 0.5, 0.5)
	add("lifeguard", "time", 2, 2, 2)
	add("plain", "rate", 10, 10, 10)
	add("lifeguard", "rate", 5, 5, 5)
	add("plain", "close", 100, 100, 100)
	add("lifeguard", "close", 104, 104, 104)
	add("plain", "undecided", 10, 10, 10, 10, 10)
	add("lifeguard", "undecided", 20, 20, 20, 5, 5)
	add("plain", "neither", 1)
	add("lifeguard", "neither", 9)
	// In another variant it is the only one, and so behind nobody.
	table.Add(Row{"w", "lifeguard"}, "time", 9)

	add("twin", "time", 0.1, 0.1, 0.1)

	got := table.Losses("lifeguard", func(other string) bool { return other != "twin" })
	want := []Loss{
		// The peer was faster by more, but not in enough rounds.
		{Row: Row{"v", "lifeguard"}, Column: "time", To: "plain", Factor: 2},
		{Row: Row{"v", "lifeguard"}, Column: "rate", To: "plain", Factor: 2},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		unit Unit
		v    float64
		want string
	}{
		{Seconds, 1.5, "1.5 s"},
		{Seconds, 0.9999, "1 s"},
		{Seconds, 0.5, "500 ms"},
		{Seconds, 0.0205, "20.5 ms"},
		{Seconds, 1.234e-6, "1.23 µs"},
		{Seconds, 2.67e-7, "267 ns"},
		{Seconds, 0, "0 ns"},
		{PerSecond, 1234567.8, "1,234,568/s"},
		{PerSecond, 0.333, "0.33/s"},
		{Count, 999.96, "1,000"},
		{Count, 12, "12"},
		{Count, -1234, "-1,234"},
		{Bytes, 512, "512 B"},
		{Percent, 0.1234, "12.3 %"},
		{Percent, 1, "100 %"},
		{Count, math.NaN(), "—"},
	} {
		if got := c.unit.Format(c.v); got != c.want {
			t.Errorf("Format(%v) = %q, want %q", c.v, got, c.want)
		}
	}
}
