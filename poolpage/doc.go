// Package poolpage shows a pool on a page: a cell for each connection, the queue, five minutes of charts, who holds what,
// slow queries, leaks and events. It is live in a browser, a table for curl, and JSON for programs.
//
//	mux.Handle("/debug/pool/", poolpage.Handler(db))
//
// The page is for an internal port. It shows function names, file names and queries without their literals; it asks nobody
// for a password. It changes nothing unless [WithActions] is given. See docs/poolpage.md.
//
// A mounted handler looks at the pool once a second and keeps five minutes of that, 17 KB, so that the page has a past
// when it is opened. All who watch share one look and one rendering a second. No checkout and no query pays for it.
package poolpage
