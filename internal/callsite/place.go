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
	// The last element of the import path tells enough: example.com/shop/export.All is export.All.
	return fmt.Sprintf("%s (%s:%d)", f.Function[strings.LastIndexByte(f.Function, '/')+1:], path.Base(f.File), f.Line)
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
