package lifeguard

import "github.com/go-lifeguard/lifeguard/internal/callsite"

// SiteOf finds where checkouts come from, without a limit to their number.
type SiteOf struct{ finder callsite.Finder }

// Find finds its caller's, and returns the depth.
func (s *SiteOf) Find() int {
	site := s.finder.Find()
	if site == nil {
		site = s.finder.Learn()
	}
	return len(site.PCs())
}

// WithoutSites has the pool not look where checkouts come from, as if there had always been too many.
func WithoutSites(p *Pool) { p.capture.most = 0 }
