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
		{Name: "undecided", Better: Lower}, {Name: "neither"}, {Name: "rare", Better: Lower},
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

	// Known in one round only, which decides nothing.
	add("plain", "rare", 1, math.NaN(), math.NaN())
	add("lifeguard", "rare", 9, 9, 9)

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

func TestCompareAndTally(t *testing.T) {
	table := &Table{Baseline: "plain", Columns: []Column{
		{Name: "behind", Better: Lower}, {Name: "ahead", Better: Lower}, {Name: "level", Better: Lower},
		{Name: "undecided", Better: Higher}, {Name: "zero", Better: Lower}, {Name: "neither"}, {Name: "none", Better: Lower},
	}}
	for column, values := range map[string][2][]float64{
		"behind":    {{1.2, 1.3, 1.2, 1.2, 1.0}, {1, 1, 1, 1, 1}},
		"ahead":     {{1, 1, 1, 1, 1}, {2, 2, 3, 2, 2}},
		"level":     {{1.04, 1.04, 1.04, 1.04, 1.04}, {1, 1, 1, 1, 1}},
		"undecided": {{2, 2, 2, 1, 1}, {1, 1, 1, 2, 2}},
		"zero":      {{0, 0}, {0, 0}},
		"neither":   {{9}, {1}},
		"none":      {{9}, nil},
	} {
		for i, name := range []string{"lifeguard", "plain"} {
			for _, v := range values[i] {
				table.Add(Row{"", name}, column, v)
			}
		}
	}
	for column, want := range map[string]Verdict{
		"behind": Behind, "ahead": Ahead, "level": Level, "undecided": Level, "zero": Level, "neither": Unknown, "none": Unknown,
	} {
		if got, factor := table.Compare(Row{"", "lifeguard"}, "plain", column); got != want {
			t.Errorf("%s: %q by %v, want %q", column, got, factor, want)
		}
	}
	if _, factor := table.Compare(Row{"", "lifeguard"}, "plain", "ahead"); factor != 2 {
		t.Errorf("ahead by %v, want 2", factor)
	}
	if ahead, level, behind := table.Tally("lifeguard", "plain"); ahead != 1 || level != 3 || behind != 1 {
		t.Errorf("%d ahead, %d level, %d behind", ahead, level, behind)
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
