package docstest

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kept looks at the commands that a page's session did not run.
func (s *session) kept() (problems []problem, err error) {
	text, err := os.ReadFile(filepath.Join(s.scratch, "kept"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, command := range bytes.Split(bytes.TrimSuffix(text, []byte("\x00\n\x00")), []byte("\x00\n\x00")) {
		words := strings.Split(string(command), "\x00")
		if why := look(words[0], words[1:]); why != "" {
			problems = append(problems, problem{s.page, 0, strings.Join(words[1:], " ") + ": " + why})
		}
	}
	return problems, err
}

// look says what is wrong with a command, which is to run in a folder.
func look(folder string, words []string) string {
	switch {
	case words[0] == "make":
		return said(folder, "make", append([]string{"-n"}, words[1:]...)...)
	case words[1] == "get", words[1] == "install":
		return lookAtModules(folder, words[2:])
	default:
		return lookAtTest(folder, words[2:])
	}
}

// said is what a command says that fails.
func said(folder, name string, arguments ...string) string {
	cmd := exec.Command(name, arguments...)
	cmd.Dir = folder
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
	cmd := exec.Command("go", append([]string{"list", "-f", "{{$d := .Dir}}{{range .TestGoFiles}}{{$d}}/{{.}}\n{{end}}{{range .XTestGoFiles}}{{$d}}/{{.}}\n{{end}}"}, paths...)...)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, bytes.TrimSpace(out))
	}
	tests, flags, err := declared(strings.Fields(string(out)))
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
