package poolpage

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var colour = regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`)

func colours(css string) map[string]string {
	all := map[string]string{}
	for _, m := range colour.FindAllStringSubmatch(css, -1) {
		all[m[1]] = m[2]
	}
	return all
}

// luminance is WCAG's relative luminance.
func luminance(t *testing.T, hex string) float64 {
	l := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		require.NoError(t, err)
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}

func contrast(t *testing.T, a, b string) float64 {
	la, lb := luminance(t, a), luminance(t, b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

// WCAG AA: 4.5 for text, 3 for lines and borders that tell something.
func TestContrast(t *testing.T) {
	assert.InDelta(t, 21, contrast(t, "000000", "ffffff"), 0.01)
	text, err := assets.ReadFile("assets/page.css")
	require.NoError(t, err)
	css := string(text)
	light, dark, ok := strings.Cut(css, "@media (prefers-color-scheme: dark)")
	require.True(t, ok)
	dark = dark[:strings.Index(dark, "* {")]
	assert.Empty(t, regexp.MustCompile(`#[0-9a-f]{3,8}\b`).FindAllString(css[strings.Index(css, "* {"):], -1), "colours stand at the top")
	for scheme, all := range map[string]map[string]string{"light": colours(light), "dark": colours(dark)} {
		require.Len(t, all, 12, scheme)
		for _, pair := range []struct {
			ink, on string
			least   float64
		}{
			{"ink", "paper", 4.5}, {"ink", "panel", 4.5}, {"ink", "fill", 4.5}, {"ink", "look-fill", 4.5}, {"ink", "trouble-fill", 4.5},
			{"panel", "ink", 4.5},                                                 // a cell that runs
			{"soft", "paper", 4.5}, {"soft", "panel", 4.5}, {"soft", "fill", 4.5}, // small print, under the pointer too
			{"look", "panel", 4.5}, {"look", "look-fill", 4.5}, {"look", "fill", 4.5},
			{"trouble", "panel", 4.5}, {"trouble", "trouble-fill", 4.5}, {"trouble", "fill", 4.5},
			{"edge", "panel", 3}, {"edge", "paper", 3}, {"focus", "panel", 3}, {"focus", "paper", 3}, {"focus", "look-fill", 3},
		} {
			require.NotEmpty(t, all[pair.ink])
			require.NotEmpty(t, all[pair.on])
			assert.GreaterOrEqual(t, contrast(t, all[pair.ink], all[pair.on]), pair.least, "%s: %s on %s", scheme, pair.ink, pair.on)
		}
	}
}

// Each state has a glyph of its own, and its word beside it.
func TestStateIsNeverColourAlone(t *testing.T) {
	seen := map[string]string{}
	for _, state := range []string{"idle", "running", "held", "idle in a transaction", "leaked", "checking", "opening", "closing", "token missing"} {
		glyph := glyphs[state]
		require.NotEmpty(t, glyph, state)
		assert.Empty(t, seen[glyph], "%s and %s look the same", state, seen[glyph])
		seen[glyph] = state
		html := render("slots", viewOf(&watched{}, &frame{pool: Pool{Limit: 1, Slots: []Slot{{Serial: 1, State: state}}}}))
		assert.Contains(t, html, glyph+"</span> "+state)
	}
}
