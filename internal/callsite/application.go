package callsite

import (
	"fmt"
	"net/url"
	"runtime"
	"strings"
)

const module = "github.com/go-lifeguard/lifeguard"

// skipped are the packages, with those below them, that are never the application: they take a query from it and pass it
// on. Some stand between it and database/sql, others between that and lifeguard.
var skipped = [...]string{
	"database/sql",
	"reflect",
	"runtime",
	"internal/runtime",
	"sync",

	"entgo.io",
	"github.com/DataDog/dd-trace-go",
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
	"github.com/luna-duclos/instrumentedsql",
	"github.com/ngrok/sqlmw",
	"github.com/qustavo/sqlhooks",
	"github.com/simukti/sqldb-logger",
	"github.com/stephenafamo/bob",
	"github.com/stephenafamo/scan",
	"github.com/upper/db",
	"github.com/uptrace/bun",
	"github.com/uptrace/opentelemetry-go-extra",
	"github.com/volatiletech/sqlboiler",
	"go.nhat.io/otelsql",
	"gopkg.in/DataDog/dd-trace-go",
	"gopkg.in/gorp",
	"gorm.io",
	"xorm.io",
}

// Application returns the innermost frame of the stack that is the application's code.
//
// Frames of database/sql, lifeguard and the common data-access libraries are passed over. So are those of the packages in
// skip, with the packages below them: "example.com/app/ent" stands for itself and for example.com/app/ent/user, in every
// major version, vendored or not, but not for example.com/app/entry. Tests are applications, and so are the programs in
// lifeguard's repository. Generated code in the application's own packages counts as the application's.
//
// If there is no such frame it returns false, and a frame that is made up: it has no file, and its Function says where the
// goroutine was started, as in "a goroutine started at database/sql" for go db.Exec(…). For an empty stack the frame is
// empty too.
func Application(pcs []uintptr, skip []string) (runtime.Frame, bool) {
	f, _, ok := Innermost(pcs, skip)
	return f, ok
}

// Innermost is [Application], and returns how many entries of pcs it takes to tell: those up to the frame, or all.
func Innermost(pcs []uintptr, skip []string) (f runtime.Frame, n int, ok bool) {
	if len(pcs) == 0 {
		return runtime.Frame{}, 0, false
	}
	// A program counter can stand for a call that was inlined, so only CallersFrames tells the functions of a stack.
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if isApplication(f.Function, f.File, skip) {
			return f, upTo(pcs, f), true
		}
		if !more {
			return runtime.Frame{Function: origin(pcs)}, len(pcs), false
		}
	}
}

// upTo returns the number of entries of pcs up to the first that stands for f. It is not the number of frames: entries
// that nothing is known about have none.
func upTo(pcs []uintptr, f runtime.Frame) int {
	for i, pc := range pcs {
		// Entries are return addresses, frames have the call before them.
		if pc-1 == f.PC || pc == f.PC {
			return i + 1
		}
	}
	return len(pcs)
}

// origin names where a stack began that has no frame of the application.
func origin(pcs []uintptr) string {
	var (
		frames    = runtime.CallersFrames(pcs)
		outermost string // package
		last      string // function
	)
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		last = f.Function
		if pkg := packagePath(last); last != "" && !within(pkg, "runtime") && !within(pkg, "internal/runtime") {
			outermost = pkg
		}
	}
	switch {
	case len(pcs) >= Depth && last != "runtime.goexit":
		return fmt.Sprintf("code more than %d calls away", Depth)
	case outermost == "":
		return "unknown"
	case isLifeguard(outermost):
		return "a goroutine of lifeguard"
	}
	return "a goroutine started at " + outermost
}

// Frames returns the frames of the stack from the one of [Application] outward. If that one is made up, the frames that
// are not lifeguard's follow it.
func Frames(pcs []uintptr, skip []string) []runtime.Frame {
	first, ok := Application(pcs, skip)
	if len(pcs) == 0 {
		return nil
	}
	stack := make([]runtime.Frame, 0, len(pcs)+1)
	if !ok {
		stack = append(stack, first)
	}
	frames := runtime.CallersFrames(pcs)
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		switch {
		case f.PC == 0:
		case !ok && isLifeguard(packagePath(f.Function)):
		case ok && len(stack) == 0 && f != first:
		default:
			stack = append(stack, f)
		}
	}
	return stack
}

// isLifeguard reports whether a package is part of the library. The rest of the repository are programs that use it.
func isLifeguard(pkg string) bool {
	return pkg == module || strings.HasPrefix(pkg, module+"/internal/")
}

func isApplication(function, file string, skip []string) bool {
	if function == "" {
		return false // assembly, or a C function
	}
	if strings.HasSuffix(file, "_test.go") {
		return true
	}
	pkg := packagePath(function)
	if isLifeguard(pkg) {
		return false
	}
	for _, p := range skipped {
		if within(pkg, p) {
			return false
		}
	}
	for _, p := range skip {
		if p = strings.TrimSuffix(p, "/"); p != "" && within(pkg, p) {
			return false
		}
	}
	return true
}

// packagePath returns the import path, without a vendor directory, of the package of a function named as in
// runtime.Frame:
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
	// The linker escapes points in the last element of a path, so the first one there is the end of it.
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

// within reports whether pkg is the package prefix, one below it, or one of its versions at gopkg.in.
func within(pkg, prefix string) bool {
	rest, ok := strings.CutPrefix(pkg, prefix)
	if !ok || rest == "" || rest[0] == '/' {
		return ok
	}
	version, ok := strings.CutPrefix(rest, ".v")
	return ok && version != "" && '0' <= version[0] && version[0] <= '9'
}
