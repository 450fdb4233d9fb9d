package house

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Each function of the public API, each method of Pool and each error that a caller may ask for has an example.
func TestEveryNameHasAnExample(t *testing.T) {
	var names []string
	examples := map[string]bool{}
	for _, f := range files(t) {
		if !slices.Contains([]string{".", "lifeguardtest", "poolpage"}, f.pkg) {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if example, ok := strings.CutPrefix(name, "Example"); ok && f.test() {
					examples[f.pkg+" "+example] = true
					if of, suffix, ok := cutLast(example, "_"); ok && !ast.IsExported(suffix) {
						examples[f.pkg+" "+of] = true
					}
				}
				switch of := receiver(d); {
				case f.test() || !ast.IsExported(name):
				case of == "":
					names = append(names, f.pkg+" "+name)
				case of == "Pool" && f.pkg == ".":
					names = append(names, f.pkg+" Pool_"+name)
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR || f.test() {
					continue
				}
				for _, spec := range d.Specs {
					for _, name := range spec.(*ast.ValueSpec).Names {
						if name.IsExported() {
							names = append(names, f.pkg+" "+name.Name)
						}
					}
				}
			}
		}
	}
	assert.Greater(t, len(names), 40)
	for _, name := range names {
		assert.True(t, examples[name], "no example of %s", name)
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
