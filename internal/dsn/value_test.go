package dsn

import (
	"strings"
	"testing"
	"time"
)

func TestCount(t *testing.T) {
	for _, tt := range []struct {
		text    string
		want    int
		problem string
	}{
		{"0", 0, ""}, {"1", 1, ""}, {"65536", 65536, ""}, {"007", 7, ""},
		{"99999999999999999999", 0, "out of range"},
		{"", 0, "not a whole number"}, {"-1", 0, "not a whole number"}, {"+1", 0, "not a whole number"},
		{"1.0", 0, "not a whole number"}, {"1e3", 0, "not a whole number"}, {"1_000", 0, "not a whole number"},
		{"ten", 0, "not a whole number"}, {"auto", 0, "not a whole number"}, {"٣", 0, "not a whole number"},
	} {
		got, problem := Count(tt.text)
		if got != tt.want || !strings.Contains(problem, tt.problem) || (problem == "") != (tt.problem == "") {
			t.Errorf("Count(%q) = %d, %q; want %d, %q", tt.text, got, problem, tt.want, tt.problem)
		}
	}
}

func TestPeriod(t *testing.T) {
	for _, tt := range []struct {
		text    string
		want    time.Duration
		problem string
	}{
		{"0", 0, ""}, {"0.0", 0, ""}, {"0s", 0, ""},
		{"7", 7 * time.Second, ""}, {"0.25", 250 * time.Millisecond, ""}, {"0.000000001", 1, ""},
		{"1.9999999999", 2*time.Second - 1, ""}, {"500ms", 500 * time.Millisecond, ""}, {"1h30m", 90 * time.Minute, ""},
		{".5s", 500 * time.Millisecond, ""}, {"20µs", 20 * time.Microsecond, ""},
		{"876000h", MaxPeriod, ""}, {"3153600000", MaxPeriod, ""}, {"3153600000.0000000009", MaxPeriod, ""},

		{"-1", 0, "negative"}, {"-1s", 0, "negative"}, {"-0", 0, "negative"},
		{"", 0, "not a duration"}, {"soon", 0, "not a duration"}, {"5.", 0, "not a duration"}, {".5", 0, "not a duration"},
		{"1e999", 0, "not a duration"}, {"1e3", 0, "not a duration"}, {"1_000", 0, "not a duration"},
		{"1_000s", 0, "not a duration"}, {"0x1p3", 0, "not a duration"}, {"NaN", 0, "not a duration"},
		{"Inf", 0, "not a duration"}, {"1d", 0, "not a duration"}, {"99999999999h", 0, "not a duration"},
		{"+5s", 0, "sign"},
		{"99999999999999999999", 0, "too long"}, {"9223372037", 0, "too long"}, {"3153600000.1", 0, "too long"},
		{"876001h", 0, "too long"},
		{"0.0000000001", 0, "shorter than a nanosecond"}, {"0.1ns", 0, "shorter than a nanosecond"},
	} {
		got, problem := Period(tt.text)
		if got != tt.want || !strings.Contains(problem, tt.problem) || (problem == "") != (tt.problem == "") {
			t.Errorf("Period(%q) = %v, %q; want %v, %q", tt.text, got, problem, tt.want, tt.problem)
		}
	}
}

func TestShown(t *testing.T) {
	for text, want := range map[string]string{
		"":                      `""`,
		"1_000.5,+-x y":         `"1_000.5,+-x y"`,
		"20µs":                  `"20µs"`,
		strings.Repeat("x", 40): `"` + strings.Repeat("x", 40) + `"`,
		strings.Repeat("x", 41): "its value",
		"5;password=secret":     "its value",
		"5&x":                   "its value",
		"a'b":                   "its value",
		"a@b":                   "its value",
		"a:b":                   "its value",
		"a\nb":                  "its value",
		"a\xffb":                "its value",
	} {
		if got := Shown(text); got != want {
			t.Errorf("Shown(%q) = %s, want %s", text, got, want)
		}
	}
}
