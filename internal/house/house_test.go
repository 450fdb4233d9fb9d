// Package house checks the order of the packages, as docs/architecture.md describes it: who may import whom, how large a
// room may be, and what no room may hold. It reads every Go file of the repository, those for other systems and other
// versions of Go included.
package house

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	module = "github.com/go-lifeguard/lifeguard"
	top    = "../.." // the repository

	maxRootFiles    = 30
	maxFile         = 400
	maxTestFile     = 600
	maxPackage      = 1500
	maxRoot         = 2000
	maxFunction     = 70 // lines; a screen
	maxFilesOfAType = 3  // that have its methods
)

// floors are the packages of the library. Each may import those below it, and no other.
var floors = []string{
	"lifeguardtest",
	"poolpage",
	".",
	"internal/assembly",
	"internal/look",
	"internal/handle",
	"internal/veil",
	"internal/leak",
	"internal/observe",
	"internal/fleet",
	"internal/pool",
	"internal/account",
	"internal/era",
	"internal/alarm",
	"internal/patience",
	"internal/session",
	"internal/intercept",
	"internal/stmtcache",
	"internal/fallback",
	"internal/libpq",
	"internal/pace",
	"internal/waitq",
	"internal/histogram",
	"internal/plot",
	"internal/activity",
	"internal/dsn",
	"internal/callsite",
	"internal/sqltext/summary",
	"internal/sqltext",
}

// workshops are what tests and benchmarks use. The library knows none of them.
var workshops = []string{
	"internal/bouncertest",
	"internal/fakedriver",
	"internal/fakedriver/recorder",
	"internal/fakedriver/recorder/gensets",
	"internal/faultproxy",
	"internal/house",
	"internal/localserver",
	"internal/mariatest",
	"internal/pgtest",
	"internal/pooltest",
}

// rootFiles are those of the public API.
var rootFiles = []string{
	"doc.go", "driver.go", "errors.go", "interceptor.go", "leakdetect.go", "limits.go", "pool.go", "shutdown.go",
	"options.go", "parameters.go", "shared.go", "stats.go", "tracing.go",
}

// file is a Go file of the repository.
type file struct {
	name  string // below the repository, with slashes
	pkg   string // its folder, "." for the root
	ast   *ast.File
	set   *token.FileSet
	lines int
	text  []byte
}

func (f *file) test() bool      { return strings.HasSuffix(f.name, "_test.go") }
func (f *file) external() bool  { return strings.HasSuffix(f.ast.Name.Name, "_test") }
func (f *file) generated() bool { return ast.IsGenerated(f.ast) }
func (f *file) library() bool   { return !f.test() && slices.Contains(floors, f.pkg) }

// own gives the packages of the repository that the file imports.
func (f *file) own() (pkgs []string) {
	for _, p := range f.imports() {
		if p == module {
			pkgs = append(pkgs, ".")
		} else if rest, ok := strings.CutPrefix(p, module+"/"); ok {
			pkgs = append(pkgs, rest)
		}
	}
	return pkgs
}

func (f *file) imports() (paths []string) {
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser has accepted it
		}
		paths = append(paths, p)
	}
	return paths
}

// files reads the repository, nested modules included.
func files(t *testing.T) (all []*file) {
	t.Helper()
	set := token.NewFileSet()
	require.NoError(t, filepath.WalkDir(top, func(name string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != top && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		f := &file{name: filepath.ToSlash(rel), ast: parsed, set: set, lines: bytes.Count(text, []byte("\n")), text: text}
		f.pkg = path.Dir(f.name)
		all = append(all, f)
		return nil
	}))
	require.Greater(t, len(all), 200)
	return all
}

// Every package of the module has its place, so that a new one is not overlooked.
func TestEveryPackageHasItsPlace(t *testing.T) {
	list := exec.Command("go", "list", "-json=ImportPath", "./...")
	list.Dir = top
	out, err := list.Output()
	require.NoError(t, err)
	known := slices.Concat(floors, workshops)
	found := []string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p struct{ ImportPath string }
		require.NoError(t, dec.Decode(&p))
		name := "."
		if p.ImportPath != module {
			name = strings.TrimPrefix(p.ImportPath, module+"/")
		}
		found = append(found, name)
	}
	assert.ElementsMatch(t, known, found, "docs/architecture.md and this test list the packages")
}

// Imports point down. External tests may look at everything, as users do.
func TestImportsPointDown(t *testing.T) {
	for _, f := range files(t) {
		floor := slices.Index(floors, f.pkg)
		if floor < 0 || f.external() {
			continue
		}
		for _, p := range f.own() {
			switch below := slices.Index(floors, p); {
			case slices.Contains(workshops, p):
				assert.True(t, f.test(), "%s imports %s, which is for tests", f.name, p)
			default:
				assert.Greater(t, below, floor, "%s imports %s, which is not below it", f.name, p)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	lines := map[string]int{}
	for _, f := range files(t) {
		if f.generated() {
			continue
		}
		most := maxTestFile
		if f.library() {
			most = maxFile
			lines[f.pkg] += f.lines
		}
		assert.LessOrEqual(t, f.lines, most, "lines of %s", f.name)
	}
	for pkg, n := range lines {
		most := maxPackage
		if pkg == "." {
			most = maxRoot
		}
		assert.LessOrEqual(t, n, most, "lines of %s, tests apart", pkg)
	}
	assert.Len(t, lines, len(floors))
}

func TestFunctionsFitAScreen(t *testing.T) {
	for _, f := range files(t) {
		if f.test() || f.generated() {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				n := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1
				assert.LessOrEqual(t, n, maxFunction, "lines of %s in %s", fn.Name.Name, f.name)
			}
		}
	}
}

// receiver gives the name of the type that fn is a method of, "" for a function.
func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	e := fn.Recv.List[0].Type
	for {
		switch of := e.(type) {
		case *ast.StarExpr:
			e = of.X
		case *ast.IndexExpr:
			e = of.X
		case *ast.IndexListExpr:
			e = of.X
		case *ast.Ident:
			return of.Name
		default:
			return ""
		}
	}
}

// A type whose methods stand in many files is two types.
func TestMethodsOfATypeStandTogether(t *testing.T) {
	type typ struct{ pkg, name string }
	in := map[typ]map[string]bool{}
	for _, f := range files(t) {
		if !f.library() {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || receiver(fn) == "" {
				continue
			}
			of := typ{f.pkg, receiver(fn)}
			if in[of] == nil {
				in[of] = map[string]bool{}
			}
			in[of][f.name] = true
		}
	}
	for of, names := range in {
		assert.LessOrEqual(t, len(names), maxFilesOfAType, "files with methods of %s in %s: %v", of.name, of.pkg, names)
	}
}

// Behaviour is decided by documented APIs alone. Only callsite reads stacks; TestDecisionsByStack says who may ask it.
func TestNoTricks(t *testing.T) {
	for _, f := range files(t) {
		for _, p := range f.imports() {
			assert.NotContains(t, []string{"unsafe", "C"}, p, f.name)
		}
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				assert.False(t, strings.HasPrefix(c.Text, "//go:linkname"), "%s has a go:linkname", f.name)
			}
		}
		if f.library() && f.pkg != "internal/callsite" {
			for _, name := range []string{"Callers", "CallersFrames", "Caller", "FuncForPC"} {
				assert.False(t, refersTo(f.ast, "runtime", name), "%s calls runtime.%s", f.name, name)
			}
		}
	}
	require.NoError(t, filepath.WalkDir(top, func(name string, _ os.DirEntry, err error) error {
		for _, ending := range []string{".s", ".S", ".c", ".syso"} {
			assert.False(t, strings.HasSuffix(name, ending), "%s is not Go", name)
		}
		return err
	}))
}

// decidesByStack are the functions of callsite that judge a stack, and the name of a frame, with all that may use them. Two
// decide something: docs/architecture.md argues for each. The others only report.
var decidesByStack = map[string][]string{
	"OwnedByDBQuery": {"internal/assembly NewPool"}, // hands it to the janitor
	"OwnedByDB":      {"internal/veil Alone", "internal/veil AloneForAny", "internal/veil AloneForLast"},
	"Through":        {"internal/observe memory.newCaller"},
	"Frame.Function": {
		"internal/observe codeAttributes", "internal/observe memory.newCaller", "internal/observe queryLog.line",
		"lifeguardtest describe", "poolpage frames", "poolpage shapeOf",
	},
}

// Nothing else is decided by a stack frame.
func TestDecisionsByStack(t *testing.T) {
	found := map[string][]string{}
	for _, f := range files(t) {
		if !f.library() {
			continue
		}
		for _, spec := range f.ast.Imports {
			if strings.HasSuffix(spec.Path.Value, `/callsite"`) {
				assert.Nil(t, spec.Name, "%s calls callsite otherwise, where this test does not see it", f.name)
			}
		}
		for _, d := range f.ast.Decls {
			user := f.pkg + " outside of functions"
			if fn, ok := d.(*ast.FuncDecl); ok {
				user = f.pkg + " " + strings.TrimPrefix(receiver(fn)+"."+fn.Name.Name, ".")
				if f.pkg == "internal/callsite" && judges(fn) {
					assert.Contains(t, decidesByStack, fn.Name.Name, "it judges a stack")
				}
			}
			if f.pkg == "internal/callsite" {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				name := s.Sel.Name
				if x, ok := s.X.(*ast.Ident); name == "Function" {
					name = "Frame.Function"
				} else if !ok || x.Name != "callsite" || decidesByStack[name] == nil {
					return true
				}
				if !slices.Contains(found[name], user) {
					found[name] = append(found[name], user)
				}
				return true
			})
		}
	}
	for _, users := range found {
		slices.Sort(users)
	}
	assert.Equal(t, decidesByStack, found)
}

// judges says whether fn is an exported function whose only result is a bool.
func judges(fn *ast.FuncDecl) bool {
	if fn.Recv != nil || !fn.Name.IsExported() || fn.Type.Results.NumFields() != 1 {
		return false
	}
	result, ok := fn.Type.Results.List[0].Type.(*ast.Ident)
	return ok && result.Name == "bool"
}

// refersTo says whether the file has pkg.name in it.
func refersTo(f *ast.File, pkg, name string) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == name {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == pkg {
				found = true
			}
		}
		return !found
	})
	return found
}

// Each package says in its doc.go what it does and what it refuses to know.
func TestEveryPackageSaysWhatItRefuses(t *testing.T) {
	for _, pkg := range floors {
		if pkg != "." && !strings.HasPrefix(pkg, "internal/") {
			continue // public ones say what a user needs
		}
		text, err := os.ReadFile(filepath.Join(top, pkg, "doc.go"))
		if assert.NoError(t, err) {
			assert.Regexp(t, `refuses to|[Rr]efuses`, string(text), pkg)
		}
	}
}

func TestRoot(t *testing.T) {
	entries, err := os.ReadDir(top)
	require.NoError(t, err)
	var all, library []string
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		all = append(all, e.Name())
		if strings.HasSuffix(e.Name(), ".go") && !strings.HasSuffix(e.Name(), "_test.go") {
			library = append(library, e.Name())
		}
	}
	assert.LessOrEqual(t, len(all), maxRootFiles, "files in the root: %v", all)
	assert.ElementsMatch(t, rootFiles, library)
}

// named finds what docs/architecture.md names in the code: `pool.Pool`, `lease.run`, `giveBack`, `pool/dial.go`.
var named = regexp.MustCompile("`([A-Za-z]+(?:[./][A-Za-z]+)*(?:\\.go)?)`")

// The page for maintainers names what there is.
func TestArchitecturePage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "docs", "architecture.md"))
	require.NoError(t, err)
	page := string(text)
	declared := map[string]bool{}
	for _, f := range files(t) {
		if !f.library() {
			continue
		}
		declared[strings.TrimPrefix(f.name, "internal/")] = true
		declared[path.Base(f.name)], declared[path.Base(f.pkg)] = true, true
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				declared[n.Name.Name] = true
			case *ast.TypeSpec:
				declared[n.Name.Name] = true
			case *ast.Field:
				for _, name := range n.Names {
					declared[name.Name] = true
				}
			}
			return true
		})
	}
	names := 0
	for _, m := range named.FindAllStringSubmatch(page[strings.Index(page, "## The way of one query"):strings.Index(page, "## The packages")], -1) {
		name := m[1]
		if !strings.HasSuffix(name, ".go") {
			name = name[strings.LastIndexByte(name, '.')+1:]
		}
		if slices.Contains([]string{"QueryContext", "Conn", "sql"}, name) {
			continue // database/sql's
		}
		names++
		assert.True(t, declared[name], "docs/architecture.md names %s, which the library does not have", m[1])
	}
	assert.Greater(t, names, 50)
	for _, pkg := range floors {
		if pkg != "." {
			assert.Contains(t, page, "| `"+pkg+"` |", "docs/architecture.md lists the packages")
		}
	}
}
