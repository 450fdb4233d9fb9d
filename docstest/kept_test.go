package docstest

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// kept looks at the commands that a page's session did not run.
func (s *session) kept() (problems []problem, err error) {
	text, err := os.ReadFile(filepath.Join(s.scratch, "kept"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, command := range bytes.Split(bytes.TrimSuffix(text, []byte("\x00\n\x00")), []byte("\x00\n\x00")) {
		words := strings.Split(string(command), "\x00")
		if why := s.look(words[0], words[1:]); why != "" {
			problems = append(problems, problem{s.page, 0, strings.Join(words[1:], " ") + ": " + why})
		}
	}
	return problems, err
}

// look says what is wrong with a command, which is to run in a folder.
func (s *session) look(folder string, words []string) string {
	switch {
	case words[0] == "make":
		return s.lookAtMake(folder, words[1:])
	case words[1] == "run":
		return s.compare(folder, words[3:])
	case words[1] == "tool":
		return said(folder, "go", "tool", "-n", words[2])
	case words[1] == "get", words[1] == "install":
		return lookAtModules(folder, words[2:])
	default:
		return lookAtTest(folder, words[2:])
	}
}

const comparison = "./benchmarks/cmd/compare"

// lookAtMake has make say what it would run. If that is the comparison, it runs in its smallest form.
func (s *session) lookAtMake(folder string, words []string) string {
	cmd := exec.Command("make", append([]string{"-n"}, words...)...)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, bytes.TrimSpace(out))
	}
	for line := range strings.Lines(string(out)) {
		if arguments, ok := strings.CutPrefix(line, "go run "+comparison+" "); ok {
			return s.compare(folder, strings.Fields(arguments))
		}
	}
	return ""
}

// compared are the results of the comparison by its arguments: several pages have the same.
var compared sync.Map // string to func() string

func (s *session) compare(folder string, arguments []string) string {
	once, _ := compared.LoadOrStore(strings.Join(arguments, " "), sync.OnceValue(func() string { return s.compareOnce(folder, arguments) }))
	return once.(func() string)()
}

// compareOnce runs the comparison as small as it gets, and reads the page that it writes as one of the documentation.
func (s *session) compareOnce(folder string, arguments []string) string {
	arguments, page := s.smoke(arguments)
	readme, err := os.ReadFile(filepath.Join(top, "README.md"))
	if err := errors.Join(err, os.WriteFile(filepath.Join(s.scratch, "README.md"), readme, 0o600)); err != nil {
		return err.Error()
	}
	if why := said(folder, "go", append([]string{"run", comparison}, arguments...)...); why != "" || page == "" {
		return why
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return err.Error()
	}
	blocks, problems := read(filepath.Base(page), string(text))
	if len(problems) > 0 {
		return "its page: " + problems[0].String()
	}
	if len(blocks) == 0 {
		return "its page has no commands"
	}
	return ""
}

// smoke gives the arguments of the comparison that show next to nothing, with a folder of the test's in the place of
// docs/; and the page that is written there, if any is.
func (s *session) smoke(arguments []string) (small []string, page string) {
	small = slices.DeleteFunc(slices.Clone(arguments), func(a string) bool { return a == "-quick" })
	for i, name := range small[:max(len(small)-1, 0)] {
		switch name {
		case "-out":
			small[i+1], page = s.scratch, filepath.Join(s.scratch, "benchmarks.md")
		case "-readme":
			small[i+1] = filepath.Join(s.scratch, "README.md")
		}
	}
	small = append(small, "-smoke", "-rounds", "1") // the later of two flags wins
	if !slices.Contains(arguments, "-workloads") {
		small = append(small, "-workloads", "spike", "-candidates", "lifeguard")
	}
	return small, page
}

// said is what a command says that fails.
func said(folder, name string, arguments ...string) string {
	cmd := exec.Command(name, arguments...)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), goFlags())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Sprintf("%v: %s", err, bytes.TrimSpace(out))
	}
	return ""
}

// lookAtModules says which of the packages to get is in no module of the workspace.
func lookAtModules(folder string, words []string) string {
	for _, word := range words {
		if strings.HasPrefix(word, "-") {
			continue
		}
		path, _, _ := strings.Cut(word, "@")
		if why := said(folder, "go", "list", path); why != "" {
			return why
		}
	}
	return ""
}

// flagsOfGoTest are those that a page may use, and whether they take a value.
var flagsOfGoTest = map[string]bool{
	"race": false, "v": false, "short": false, "benchmem": false, "json": false, "failfast": false,
	"run": true, "bench": true, "benchtime": true, "count": true, "timeout": true, "cpu": true, "p": true, "parallel": true, "tags": true,
	"skip": true, "cpuprofile": true, "memprofile": true, "mutexprofile": true, "blockprofile": true, "fuzz": true, "fuzztime": true,
}

// lookAtTest says what go test would not find: packages, tests, benchmarks, flags.
func lookAtTest(folder string, words []string) string {
	values := map[string]string{}
	var paths, own []string
	for i := 0; i < len(words); i++ {
		if !strings.HasPrefix(words[i], "-") {
			paths = append(paths, words[i])
			continue
		}
		name, value, given := strings.Cut(strings.TrimLeft(words[i], "-"), "=")
		takes, known := flagsOfGoTest[name]
		if !known {
			own = append(own, name)
		}
		if takes && !given || !known && !given && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			i++
			if i == len(words) {
				return "-" + name + " has no value"
			}
			value = words[i]
		}
		values[name] = value
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	var files []string
	for _, path := range paths {
		found, err := testFiles(filepath.Join(folder, path))
		if err != nil {
			return err.Error()
		}
		files = append(files, found...)
	}
	tests, flags, err := declared(files)
	if err != nil {
		return err.Error()
	}
	for _, name := range own {
		if !slices.Contains(flags, name) {
			return "there is no flag -" + name
		}
	}
	return unmatched(values, tests)
}

// testFiles are those of the package in a folder, and with /... of the packages below it. The go command would tell the
// same, and take a second.
func testFiles(folder string) (files []string, err error) {
	top, below := strings.CutSuffix(folder, "/...")
	err = filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if path != top && (!below || strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		pkg, err := build.ImportDir(path, 0)
		if none := new(build.NoGoError); errors.As(err, &none) && below {
			return nil
		}
		for _, name := range append(pkg.TestGoFiles, pkg.XTestGoFiles...) {
			files = append(files, filepath.Join(path, name))
		}
		return err
	})
	return files, err
}

// unmatched says which pattern matches no test.
func unmatched(values map[string]string, tests []string) string {
	for flag, kind := range map[string]string{"run": "Test", "bench": "Benchmark", "fuzz": "Fuzz"} {
		pattern, _, _ := strings.Cut(values[flag], "/")
		if pattern == "" || pattern == "^$" {
			continue
		}
		match, err := regexp.Compile(pattern)
		if err != nil {
			return err.Error()
		}
		if !slices.ContainsFunc(tests, func(name string) bool {
			return match.MatchString(name) && (strings.HasPrefix(name, kind) || kind == "Test" && strings.HasPrefix(name, "Example"))
		}) {
			return fmt.Sprintf("-%s %s matches nothing", flag, pattern)
		}
	}
	return ""
}

// declared gives the names of functions, and of flags, that test files declare.
func declared(files []string) (tests, flags []string, err error) {
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return nil, nil, err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil {
					tests = append(tests, n.Name.Name)
				}
			case *ast.CallExpr:
				if s, ok := n.Fun.(*ast.SelectorExpr); ok {
					if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "flag" && len(n.Args) > 0 {
						if text, ok := n.Args[0].(*ast.BasicLit); ok {
							name, _ := strconv.Unquote(text.Value) // of no use otherwise
							flags = append(flags, name)
						}
					}
				}
			}
			return true
		})
	}
	return tests, flags, nil
}
