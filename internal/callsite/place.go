package callsite

import (
	"fmt"
	"path"
	"runtime"
	"strings"
)

// Place is a frame in a few words, for logs and errors: "export.All (export.go:88)".
func Place(f runtime.Frame) string {
	if f.File == "" {
		return f.Function // which Frames made up
	}
	return fmt.Sprintf("%s (%s:%d)", short(f.Function), path.Base(f.File), f.Line)
}

// short leaves of the import path what tells enough, the last element: example.com/shop/export.All is export.All. A major
// version tells nothing alone: example.com/goose/v3.Up is goose/v3.Up.
func short(function string) string {
	last := strings.LastIndexByte(function, '/')
	if pkg, _, _ := strings.Cut(function[last+1:], "."); last > 0 && isMajorVersion(pkg) {
		last = strings.LastIndexByte(function[:last], '/')
	}
	return function[last+1:]
}

func isMajorVersion(element string) bool {
	digits, ok := strings.CutPrefix(element, "v")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// Text is a stack as a panic shows it.
func Text(stack []runtime.Frame) string {
	var b strings.Builder
	for _, f := range stack {
		b.WriteString(f.Function)
		b.WriteByte('\n')
		if f.File != "" {
			fmt.Fprintf(&b, "\t%s:%d\n", f.File, f.Line)
		}
	}
	return b.String()
}
