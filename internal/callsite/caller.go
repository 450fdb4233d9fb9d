// Package callsite finds the application's code in a stack that also holds
// database/sql, lifeguard and the libraries between them and the application.
//
// Stacks are captured as program counters, which is cheap, and looked at only
// for a report. Code that a generator wrote into the application's own packages
// counts as the application's; its package can be skipped by name.
package callsite

import (
	"net/url"
	"runtime"
	"strings"
)

const module = "github.com/go-lifeguard/lifeguard"

// skipped are the packages, with those below them, that are never the
// application: what takes a query from it and passes it on.
var skipped = [...]string{
	"database/sql",
	"reflect",
	"runtime",
	"internal/runtime",
	"sync",

	"entgo.io",
	"github.com/Masterminds/squirrel",
	"github.com/XSAM/otelsql",
	"github.com/aarondl/sqlboiler",
	"github.com/doug-martin/goqu",
	"github.com/georgysavva/scany",
	"github.com/go-gorp",
	"github.com/go-jet/jet",
	"github.com/gocraft/dbr",
	"github.com/jinzhu/gorm",
	"github.com/jmoiron/sqlx",
	"github.com/ngrok/sqlmw",
	"github.com/stephenafamo/bob",
	"github.com/stephenafamo/scan",
	"github.com/upper/db",
	"github.com/uptrace/bun",
	"github.com/volatiletech/sqlboiler",
	"gopkg.in/gorp",
	"gorm.io",
	"xorm.io",
}

// Capture fills pcs with the stack of the calling goroutine and returns how
// many entries it wrote. With skip 0 the first is the caller of Capture.
func Capture(skip int, pcs []uintptr) int {
	// Callers counts itself and Capture.
	return runtime.Callers(skip+2, pcs)
}

// Application returns the innermost frame of the stack pcs, as Capture wrote
// it, that belongs to the application, whether there is one, and how many of
// the entries it takes to tell: those up to the frame, or all.
//
// Frames of database/sql, lifeguard and common data-access libraries are passed
// over, and those of the packages named in skipPrefixes, with the packages
// below them: "example.com/app/ent" stands for itself and for
// example.com/app/ent/user, in every major version, vendored or not, but not
// for example.com/app/entry. Tests are applications, and so are the programs in
// lifeguard's repository.
func Application(pcs []uintptr, skipPrefixes []string) (f runtime.Frame, n int, ok bool) {
	if len(pcs) == 0 {
		return runtime.Frame{}, 0, false
	}
	// A single program counter can stand for several inlined calls, so only
	// CallersFrames tells which functions a stack consists of.
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if isApplication(f.Function, f.File, skipPrefixes) {
			return f, upTo(pcs, f), true
		}
		if !more {
			return runtime.Frame{}, len(pcs), false
		}
	}
}

// upTo is the number of entries of pcs up to the first that stands for f. It is
// not the number of frames: entries that nothing is known about have none.
func upTo(pcs []uintptr, f runtime.Frame) int {
	for i, pc := range pcs {
		// Entries are return addresses, frames have the call before them.
		if pc-1 == f.PC || pc == f.PC {
			return i + 1
		}
	}
	return len(pcs)
}

// Reach returns how many entries of chain it takes to recognise the stack whose
// inner part is pcs, as Application measured it: those up to the function that
// the last entry of pcs belongs to. Chain and Capture were called by the same
// goroutine, one after the other. It returns 0 if chain does not reach that far.
func Reach(chain, pcs []uintptr) int {
	reached, at := 0, 0 // entries of chain, and of pcs up to the last of them
	for i, pc := range chain {
		// The innermost entries differ, as the calls of Chain and Capture do;
		// wrappers that the compiler wrote are in chain only.
		for j := at; j < len(pcs); j++ {
			if pcs[j] == pc {
				reached, at = i+1, j+1
				break
			}
		}
	}
	// What is between must be inlined into the function that chain knows.
	if reached == 0 || !sameFunction(chain[reached-1], pcs[len(pcs)-1]) {
		return 0
	}
	return reached
}

// sameFunction tells whether two return addresses lie in the code of one
// function, with what was inlined into it.
func sameFunction(a, b uintptr) bool {
	f, g := runtime.FuncForPC(a-1), runtime.FuncForPC(b-1)
	return f != nil && g != nil && f.Entry() == g.Entry()
}

// Stack returns the frames of pcs from the one that Application finds outward,
// or all of them if there is no such frame.
func Stack(pcs []uintptr, skipPrefixes []string) []runtime.Frame {
	if len(pcs) == 0 {
		return nil
	}
	var (
		stack  = make([]runtime.Frame, 0, len(pcs))
		frames = runtime.CallersFrames(pcs)
		found  bool
	)
	for {
		f, more := frames.Next()
		if !found && isApplication(f.Function, f.File, skipPrefixes) {
			found = true
			stack = stack[:0]
		}
		if f.PC != 0 {
			stack = append(stack, f)
		}
		if !more {
			return stack
		}
	}
}

func isApplication(function, file string, skipPrefixes []string) bool {
	if function == "" {
		return false // assembly, or a C function
	}
	if strings.HasSuffix(file, "_test.go") {
		return true
	}
	pkg := packagePath(function)
	// The rest of the repository is programs that use lifeguard.
	if pkg == module || strings.HasPrefix(pkg, module+"/internal/") {
		return false
	}
	for _, p := range skipped {
		if within(pkg, p) {
			return false
		}
	}
	for _, p := range skipPrefixes {
		if p = strings.TrimSuffix(p, "/"); p != "" && within(pkg, p) {
			return false
		}
	}
	return true
}

// packagePath returns the import path, without a vendor directory, of the
// package that a function named as in runtime.Frame belongs to:
//
//	example.com/a/b.F                      example.com/a/b
//	example.com/a/b.(*T[...]).M.func1      example.com/a/b
//	gopkg.in/a%2ev1.F                      gopkg.in/a.v1
//	example.com/a/vendor/example.com/b.F   example.com/b
func packagePath(function string) string {
	// Type arguments and receivers may hold slashes and points of their own.
	path := function
	if i := strings.IndexAny(path, "[("); i >= 0 {
		path = path[:i]
	}
	// The linker escapes points in the last element of a path, so the first one
	// there is the end of it.
	last := strings.LastIndexByte(path, '/') + 1
	if i := strings.IndexByte(path[last:], '.'); i >= 0 {
		path = path[:last+i]
	}
	if strings.IndexByte(path, '%') >= 0 {
		if p, err := url.PathUnescape(path); err == nil {
			path = p
		}
	}
	if i := strings.LastIndex(path, "/vendor/"); i >= 0 {
		return path[i+len("/vendor/"):]
	}
	return strings.TrimPrefix(path, "vendor/")
}

// within tells whether pkg is the package prefix, one below it, or one of its
// versions at gopkg.in.
func within(pkg, prefix string) bool {
	rest, ok := strings.CutPrefix(pkg, prefix)
	if !ok || rest == "" || rest[0] == '/' {
		return ok
	}
	version, ok := strings.CutPrefix(rest, ".v")
	return ok && version != "" && '0' <= version[0] && version[0] <= '9'
}
