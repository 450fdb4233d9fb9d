package assembly

import (
	"strings"
	"time"
)

// Readable rounds d so that three digits remain, or whole seconds: 4m12s, 20s, 1.53s, 131ms.
func Readable(d time.Duration) string {
	unit := time.Second
	if d.Abs() < 10*time.Second {
		for unit = 1; d.Abs() >= 1000*unit; unit *= 10 {
		}
	}
	d = d.Round(unit)
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}
