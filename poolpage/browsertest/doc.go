// Package browsertest tries package poolpage in a real browser, Debian's Chromium, on a real PostgreSQL. It is a module of
// its own, because driving a browser takes libraries that the module of the page does not need.
//
//	go test ./poolpage/browsertest -pictures docs/img
//
// also makes the pictures in docs/img.
package browsertest
