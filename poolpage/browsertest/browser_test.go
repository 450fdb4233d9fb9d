package browsertest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

var (
	pictures = flag.String("pictures", "", "folder, from the root of the repository, to write screenshots to")
	past     = flag.Duration("past", 0, "how long the storm lasts before the pictures")
)

func TestMain(m *testing.M) { flag.Parse(); os.Exit(pgtest.Run(m)) }

// browser starts a Chromium of its own.
func browser(t *testing.T) context.Context {
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no chromium: scripts/install-servers installs it with Debian's apt-get")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-dev-shm-usage", true))
	all, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(all)
	t.Cleanup(closeTab)
	require.NoError(t, chromedp.Run(ctx))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// complaints collects what the browser has to complain about: violations of the policy, errors of the script.
func complaints(ctx context.Context, t *testing.T) *[]string {
	var all []string
	chromedp.ListenTarget(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			all = append(all, ev.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			all = append(all, fmt.Sprint(ev.Type, ev.Args))
		}
	})
	return &all
}

// text is what an element shows; "" if there is none. The script puts new elements in the place of old ones at any moment.
func text(ctx context.Context, t *testing.T, selector string) string {
	t.Helper()
	s, _ := script(ctx, t, fmt.Sprintf(`(document.querySelector(%q) || {innerText: ""}).innerText`, selector)).(string)
	return s
}

// script runs JavaScript on the page.
func script(ctx context.Context, t *testing.T, text string) (value any) {
	t.Helper()
	require.NoError(t, chromedp.Run(ctx, chromedp.Evaluate(text, &value)))
	return value
}

func eventually(ctx context.Context, t *testing.T, selector, part string) {
	t.Helper()
	got := ""
	require.Eventually(t, func() bool {
		got = text(ctx, t, selector)
		return strings.Contains(got, part)
	}, 20*time.Second, 200*time.Millisecond, "%s has no %q", selector, part)
}

func TestEveryPanelShowsTheStorm(t *testing.T) {
	ctx := browser(t)
	s := startStorm(t)
	complained := complaints(ctx, t)
	require.NoError(t, chromedp.Run(ctx, chromedp.EmulateViewport(1440, 900),
		chromedp.Navigate(s.server.URL+"/debug/pool/"), chromedp.WaitVisible("#live.on", chromedp.ByQuery)))

	eventually(ctx, t, "#head", "Full: 8 of 8 in use, 2 of them leaked.")
	eventually(ctx, t, "#slots", "leaked")
	eventually(ctx, t, "#slots", "forgetTransaction")
	eventually(ctx, t, "#queue", "waiting, the longest for")
	eventually(ctx, t, "#queue", "(storm_test.go:")
	eventually(ctx, t, "#holders", "blocked by #")
	eventually(ctx, t, "#holders", "transfer")
	eventually(ctx, t, "#shapes", "pg_sleep")
	eventually(ctx, t, "#shapes", "23505")
	eventually(ctx, t, "#leaks", "keepConnection")
	eventually(ctx, t, "#events", "the token service does not answer")
	for _, panel := range []string{"main", "head", "body"} {
		assert.NotContains(t, text(ctx, t, panel), "secret-literal")
	}
	assert.GreaterOrEqual(t, script(ctx, t, `document.querySelectorAll("#charts .plot path").length`), 6.0)

	// A cell opens its holder, by keyboard too, and stays open when the panel changes.
	script(ctx, t, `document.querySelector(".cell.s-leaked a").focus()`)
	require.NoError(t, chromedp.Run(ctx, chromedp.KeyEvent(kb.Enter)))
	eventually(ctx, t, "#holders details[open] .stack", "storm_test.go:")
	script(ctx, t, `document.querySelector("#holders details[open] .stack").dataset.old = "yes"`)
	require.Eventually(t, func() bool {
		return script(ctx, t, `document.querySelector("#holders details[open] .stack").dataset.old !== "yes"`) == true
	}, 10*time.Second, 100*time.Millisecond, "the panel changes")
	assert.Equal(t, "SUMMARY", script(ctx, t, `document.activeElement.tagName`), "the focus stays, too")

	// The page's own form works, and the events panel tells of it.
	script(ctx, t, `document.querySelector('input[name="limit"]').value = "9"; document.querySelector('form[action="limit"] button').click(); 0`)
	eventually(ctx, t, "#events", "connection_limit from 8 to 9")
	assert.Empty(t, *complained)

	// Without a script it is a still page with everything.
	require.NoError(t, chromedp.Run(ctx, emulation.SetScriptExecutionDisabled(true), chromedp.Reload()))
	var live, holders string
	require.NoError(t, chromedp.Run(ctx, chromedp.Text("#live", &live, chromedp.ByQuery), chromedp.Text("#holders", &holders, chromedp.ByQuery)))
	assert.Contains(t, live, "still")
	assert.Contains(t, holders, "transfer")
}

func TestNothingIsWiderThanThePhone(t *testing.T) {
	ctx := browser(t)
	s := startStorm(t)
	for _, width := range []int64{320, 390, 800, 1440} {
		var wide int64
		require.NoError(t, chromedp.Run(ctx, chromedp.EmulateViewport(width, 800), chromedp.Navigate(s.server.URL+"/debug/pool/"),
			chromedp.Evaluate(`document.documentElement.scrollWidth`, &wide)))
		assert.LessOrEqual(t, wide, width)
	}
}

// TestPictures makes the pictures of the documentation.
func TestPictures(t *testing.T) {
	if *pictures == "" {
		t.Skip("without -pictures")
	}
	ctx := browser(t)
	s := startStorm(t)
	time.Sleep(*past) // the charts need a past
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{390, 1440} {
			var shot []byte
			require.NoError(t, chromedp.Run(ctx,
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
				chromedp.EmulateViewport(width, 900), chromedp.Navigate(s.server.URL+"/debug/pool/"),
				chromedp.WaitVisible("#live.on", chromedp.ByQuery),
				chromedp.ActionFunc(func(ctx context.Context) (err error) {
					shot, err = page.CaptureScreenshot().WithCaptureBeyondViewport(true).WithClip(&page.Viewport{
						Width: float64(width), Height: height(ctx), Scale: 1}).Do(ctx)
					return err
				})))
			name := filepath.Join("../..", *pictures, fmt.Sprintf("poolpage-%d-%s.png", width, scheme))
			shot = fewColours(t, shot)
			require.NoError(t, os.WriteFile(name, shot, 0o644))
			assert.Less(t, len(shot), 300<<10, name)
		}
	}
}

func height(ctx context.Context) (h float64) {
	if err := chromedp.Evaluate(`document.documentElement.scrollHeight`, &h).Do(ctx); err != nil {
		return 900
	}
	return h
}

// fewColours writes a picture with its 256 most frequent colours, which takes a third of the room.
func fewColours(t *testing.T, picture []byte) []byte {
	from, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	counts := map[color.RGBA]int{}
	b := from.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			counts[color.RGBAModel.Convert(from.At(x, y)).(color.RGBA)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int { return counts[b] - counts[a] })
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	to, near := image.NewPaletted(b, palette), map[color.RGBA]uint8{}
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := color.RGBAModel.Convert(from.At(x, y)).(color.RGBA)
			i, ok := near[c]
			if !ok {
				i = uint8(palette.Index(c))
				near[c] = i
			}
			to.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, to))
	return out.Bytes()
}
