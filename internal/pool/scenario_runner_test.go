package pool_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// The runner finds each kind of expectation that is wrong, and says where it stands.
func TestRunnerFindsFaults(t *testing.T) {
	for _, tt := range []struct{ text, problem string }{
		{"at 0s a: exec\nexpect a fails", "3: 0 of 1"},
		{"at 0s a: exec\nexpect a served after 1s", "3: 0 of 1"},
		{"server dial takes 2s\nat 0s a: exec\nexpect a served within 1s", "4: 0 of 1"},
		{"at 0s a: exec, wait 2s\nexpect a done by 1s", "3: 0 of 1"},
		{"server query next 1 fails 28P01\nat 0s a b: exec\nexpect a b served", "4: 1 of 2"},
		{"server query next 1 fails 28P01\nat 0s a b: exec\nexpect 2.. of a b served", "4: 1 of 2, not at least 2"},
		{"server query next 1 fails 28P01\nat 0s a b: exec\nexpect 51% of a b served", "4: 1 of 2 are 50.0 %, not 51 %"},
		{"server query fails 28P01\nat 0s a: exec\nexpect a fails 28P02", "4: 0 of 1"},
		{"server query fails 28P01\nat 0s a: exec\nexpect a fails not 28P01", "4: 0 of 1"},
		{"server query fails 28P01\nat 0s a: exec\nexpect a never 28P01", "4: 0 of 1"},
		{"server query fails 28P01\nat 0s a: exec\nexpect a fails says \"swordfish\"", "4: 0 of 1"},
		{"server query fails 28P01\nat 0s a: exec\nexpect a fails silent /p[a]ssword/", "4: 0 of 1"},
		{"at 0s a: wait 1s\nexpect a served", "3: none of them asked"},
		{"at 0s a b: exec\nexpect order b a", "3: served in the order a b"},
		{"at 0s a: exec\nexpect dials 2", "3: dials is 1, not 2"},
		{"at 0s a: exec\nat 1s expect idle 0\nexpect a served", "3: idle is 1, not 0"},
		{"pool connection_limit=1 pool_timeout=0\nat 0s h: conn\nat 0s a: exec\nexpect h served", "1: a, which came at 0s, has no answer"},
	} {
		scenarios, err := parse("x.txt", strings.NewReader("scenario of the test\n"+tt.text))
		if err != nil {
			t.Error(err)
			continue
		}
		var problems []problem
		synctest.Test(t, func(*testing.T) { problems = scenarios[0].play() })
		if len(problems) != 1 || !strings.HasPrefix(fmt.Sprintf("%d: %s", problems[0].line, problems[0].text), tt.problem) {
			t.Errorf("%s\nproblems %v, want %q", tt.text, problems, tt.problem)
		}
	}
}

// A line that cannot be read is an error that names it.
func TestParserErrors(t *testing.T) {
	for text, want := range map[string]string{
		"expect a served":           `"expect" stands before the first scenario`,
		"scenario":                  "needs a title",
		"scenario s\nat 0s a: exec": "expects nothing",
		"scenario s\nwhat":          `"what" begins no line`,
		"scenario s\nat 0s a: exec\nexpect b served": `nobody is called "b"`,
		"scenario s\nat 0s A: exec":                  `"A" is no caller`,
		"scenario s\nat 0s a1..b2: exec":             `"a1..b2" is no caller`,
		"scenario s\nat soon a: exec":                "a time such as 1.5s",
		"scenario s\nat 0s a: jump":                  `"jump" is no step`,
		"scenario s\nat 0s a: wait":                  "wait takes D",
		"scenario s\nat 0s a: ping 3":                "ping takes nothing",
		"scenario s\nat 0s a: on other":              `no handle "other"`,
		"scenario s\nat 0s a: conn as nobody":        "the places export and report",
		"scenario s\nat 0s expect a served":          `without "at 0s"`,
		"scenario s\nfrom 0s to 1s every 0s a: exec": "never end",
		"scenario s\nserver meal takes 1s":           `no "meal"`,
		"scenario s\nserver dial fails badly":        `"badly" is no fault`,
		"scenario s\nserver dial works hard":         `"hard" is too much`,
		"scenario s\nserver dial next x fails":       "next takes a number",
		"scenario s\nexpect dials many":              "no number and no range",
		"scenario s\nexpect dials 5..3":              "no number and no range",
		"scenario s\nexpect a fails strangely":       `"strangely" is no kind`,
		"scenario s\nexpect a fails says word":       `neither "text" nor /pattern/`,
		"scenario s\npool limit":                     "NAME=VALUE",
		"scenario s\ndriver of mine":                 `a driver may be "without reset"`,
	} {
		_, err := parse("x.txt", strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "x.txt:") {
			t.Errorf("%q: %v, want an error at a line that says %q", text, err, want)
		}
	}
}

// Titles name tests, so a file must not use one twice.
func TestTitlesAreUnique(t *testing.T) {
	const text = "scenario s\nat 0s a: exec\nexpect a served\n"
	if _, err := parse("x.txt", strings.NewReader(text+text)); err == nil || !strings.Contains(err.Error(), `x.txt:4: there is a scenario "s" already`) {
		t.Error(err)
	}
}
