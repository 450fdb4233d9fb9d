package main

import (
	"fmt"
	"strings"
)

// svg draws throughput and p99 over the limit, readable in light and dark.
func (r *result) svg() string {
	const width, height, left, top, right, bottom = 720, 360, 70, 50, 650, 300
	most, slowest := 1e-9, 1e-9
	for _, l := range r.Levels {
		most, slowest = max(most, l.Throughput), max(slowest, l.P99)
	}
	var b, rate, late strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="t d">
<title id="t">Throughput and p99 by connection_limit</title>
<desc id="d">%d clients. Best at %d; the smallest limit within 5 %% of it is %d.</desc>
<style>text{font:13px sans-serif;fill:#222}.a{stroke:#888}.r{stroke:#0b63b0;fill:none;stroke-width:2}.l{stroke:#a8480a;fill:none;stroke-width:2;stroke-dasharray:6 4}.p{fill:#0b63b0}
@media(prefers-color-scheme:dark){text{fill:#eee}.r{stroke:#6cb6ff}.l{stroke:#ffa657}.p{fill:#6cb6ff}}</style>
<path class="a" fill="none" d="M%d %dV%dH%d"/>
`, width, height, r.Clients, r.Best, r.Recommended, left, top, bottom, right)
	for i, l := range r.Levels {
		x := left + (right-left)*(2*i+1)/(2*len(r.Levels))
		y := bottom - (bottom-top)*l.Throughput/most
		command := "L"
		if i == 0 {
			command = "M"
		}
		fmt.Fprintf(&rate, "%s%d %.1f", command, x, y)
		fmt.Fprintf(&late, "%s%d %.1f", command, x, bottom-(bottom-top)*l.P99/slowest)
		mark := 3
		if l.Limit == r.Recommended {
			mark = 7
		}
		fmt.Fprintf(&b, `<circle class="p" cx="%d" cy="%.1f" r="%d"/><text x="%d" y="%d" text-anchor="middle">%d</text>`+"\n",
			x, y, mark, x, bottom+20, l.Limit)
	}
	fmt.Fprintf(&b, `<path class="r" d="%s"/><path class="l" d="%s"/>
<text x="%d" y="20">solid: queries a second, at most %.0f</text><text x="%d" y="38">dashed: p99, at most %.2f ms</text>
<text x="%d" y="%d" text-anchor="middle">connection_limit</text>
</svg>
`, rate.String(), late.String(), left, most, left, slowest, (left+right)/2, bottom+42)
	return b.String()
}
