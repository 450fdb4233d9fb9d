package assembly_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
)

func TestReadable(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                     "0s",
		999:                                   "999ns",
		123456:                                "123µs",
		130820 * time.Microsecond:             "131ms",
		2784 * time.Microsecond:               "2.78ms",
		999999 * time.Microsecond:             "1s",
		1534567 * time.Microsecond:            "1.53s",
		9999 * time.Millisecond:               "10s",
		20*time.Second + 3*time.Millisecond:   "20s",
		59*time.Second + 600*time.Millisecond: "1m",
		4*time.Minute + 12*time.Second:        "4m12s",
		10 * time.Minute:                      "10m",
		time.Hour:                             "1h",
		20 * time.Hour:                        "20h",
		time.Hour + 10*time.Minute:            "1h10m",
		time.Hour + time.Second:               "1h0m1s",
		-1534567 * time.Microsecond:           "-1.53s",
	} {
		assert.Equal(t, want, assembly.Readable(d))
	}
}
