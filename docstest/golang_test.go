package docstest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// packages are imported where a fragment uses them and does not import them itself.
var packages = map[string]string{
	"bun": "github.com/uptrace/bun", "context": "context", "driver": "database/sql/driver", "errors": "errors",
	"exec": "os/exec", "expvar": "expvar", "fmt": "fmt", "gorm": "gorm.io/gorm", "http": "net/http",
	"lifeguard": "github.com/go-lifeguard/lifeguard", "lifeguardtest": "github.com/go-lifeguard/lifeguard/lifeguardtest",
	"log": "log", "mysql": "github.com/go-sql-driver/mysql", "os": "os", "pgx": "github.com/jackc/pgx/v5",
	"pgxpool": "github.com/jackc/pgx/v5/pgxpool", "poolpage": "github.com/go-lifeguard/lifeguard/poolpage",
	"pq": "github.com/lib/pq", "prometheus": "github.com/prometheus/client_golang/prometheus",
	"signal": "os/signal", "slog": "log/slog", "sql": "database/sql", "sqlx": "github.com/jmoiron/sqlx",
	"source": "github.com/golang-migrate/migrate/v4/source",
	"stdlib": "github.com/jackc/pgx/v5/stdlib", "strings": "strings", "syscall": "syscall", "testing": "testing",
	"time":    "time",
	"dialect": "entgo.io/ent/dialect", "entsql": "entgo.io/ent/dialect/sql", "ent": "github.com/go-lifeguard/lifeguard/ecosystem/ent",
	"fs": "io/fs", "goose": "github.com/pressly/goose/v3", "lock": "github.com/pressly/goose/v3/lock", "otelsql": "github.com/XSAM/otelsql",
	"pgdialect": "github.com/uptrace/bun/dialect/pgdialect", "river": "github.com/riverqueue/river",
	"riverdatabasesql": "github.com/riverqueue/river/riverdriver/riverdatabasesql", "squirrel": "github.com/Masterminds/squirrel",
	"store": "github.com/go-lifeguard/lifeguard/ecosystem/sqlc/pgqueries",
}

var (
	packageClause = regexp.MustCompile(`(?m)^package \w+`)
	importDecl    = regexp.MustCompile(`(?m)^import (\([^)]*\)|.*)$`)
	onlyDots      = regexp.MustCompile(`(?m)^\s*…\s*$`)
)

// goText is the file that a Go block stands for. Line n of the page is line n of the file, as far as a //line says.
func goText(b *block, prelude []*block) (string, error) {
	text := b.text
	if b.lang == "diff" {
		text = newLines(text)
	}
	if packageClause.MatchString(text) {
		return text, nil
	}
	text = onlyDots.ReplaceAllString(text, "")
	page, err := filepath.Abs(filepath.Join(top, b.page))
	if err != nil {
		return "", err
	}
	imports := strings.Join(importDecl.FindAllString(text, -1), "\n")
	text = importDecl.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("\n", strings.Count(s, "\n")) })
	var body string
	signature, inside := b.rules["in"]
	if !inside && declarations(text) {
		body = fmt.Sprintf("//line %s:%d\n%s", page, b.line, text)
	} else {
		used, err := variables(text)
		if err != nil {
			return "", err
		}
		if signature == "" {
			signature = "()"
		}
		if strings.HasSuffix(signature, " error") {
			used += "return nil\n"
		}
		body = fmt.Sprintf("func _%s {\n//line %s:%d\n%s\n%s}\n", signature, page, b.line, text, used)
	}
	for _, p := range prelude {
		imports += "\n" + strings.Join(importDecl.FindAllString(p.text, -1), "\n")
		body += fmt.Sprintf("\n//line %s:%d\n%s", page, p.line, importDecl.ReplaceAllString(p.text, ""))
	}
	return addImports("package block\n"+imports+"\n", body)
}

// newLines are those that a diff leaves or adds.
func newLines(diff string) string {
	var lines []string
	for _, line := range strings.Split(diff, "\n") {
		if strings.HasPrefix(line, "-") {
			line = ""
		} else if line != "" {
			line = line[1:]
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func declarations(text string) bool {
	_, err := parser.ParseFile(token.NewFileSet(), "", "package block\n"+text, 0)
	return err == nil
}

// variables uses what the statements of text declare, so that the compiler does not ask for it.
func variables(text string) (string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", "package block; func _() {\n"+text+"\n}", 0)
	if err != nil {
		return "", err
	}
	var names []string
	for _, statement := range file.Decls[0].(*ast.FuncDecl).Body.List {
		switch s := statement.(type) {
		case *ast.AssignStmt:
			for _, left := range s.Lhs {
				if name, ok := left.(*ast.Ident); ok && s.Tok == token.DEFINE && name.Name != "_" {
					names = append(names, name.Name)
				}
			}
		case *ast.DeclStmt:
			for _, spec := range s.Decl.(*ast.GenDecl).Specs {
				if v, ok := spec.(*ast.ValueSpec); ok && s.Decl.(*ast.GenDecl).Tok == token.VAR {
					for _, name := range v.Names {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	var used strings.Builder
	for _, name := range names {
		fmt.Fprintf(&used, "_ = %s\n", name)
	}
	return used.String(), nil
}

// addImports puts a file together from its head and body.
func addImports(head, body string) (string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", head+body, 0)
	if err != nil {
		return "", err
	}
	imported, named := map[string]bool{}, map[string]bool{} // paths, and the names that they stand for, as far as they tell
	for _, spec := range file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return "", err
		}
		imported[path], named[filepath.Base(path)] = true, true
	}
	var missing []string
	for _, name := range file.Unresolved {
		if path := packages[name.Name]; path != "" && !imported[path] && !named[name.Name] {
			imported[path] = true
			missing = append(missing, fmt.Sprintf("import %s %q", name.Name, path))
		}
	}
	return head + strings.Join(missing, "\n") + "\n" + body, nil
}

// goBlocks are a module of the workspace that has a package for each block.
type goBlocks struct {
	blocks map[string]*block // by the name of the package's folder
	folder string
}

// writeGo makes packages of all Go blocks.
func writeGo(blocks []*block, folder string, text func(*block) (string, error)) (*goBlocks, []problem, error) {
	g := &goBlocks{blocks: map[string]*block{}, folder: folder}
	var problems []problem
	files := map[string]string{"go.mod": "module docs.example/blocks\n\ngo 1.25.0\n"}
	for i, b := range blocks {
		source, err := text(b)
		if err != nil {
			problems = append(problems, b.problem("%v", err))
			continue
		}
		name := fmt.Sprintf("block%d", i)
		file := "block.go"
		if strings.Contains(source, "testing.T)") || strings.Contains(source, "testing.B)") {
			file = "block_test.go"
		}
		files[filepath.Join(name, file)] = source
		g.blocks[name] = b
	}
	work, sums, err := workspace()
	if err != nil {
		return nil, nil, err
	}
	files["go.work"], files["go.work.sum"] = work, sums
	for name, text := range files {
		path := filepath.Join(folder, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
	}
	return g, problems, err
}

// workspace is the repository's go.work as it reads from elsewhere, with the folder that it is written into.
func workspace() (work, sums string, err error) {
	root, err := filepath.Abs(top)
	if err != nil {
		return "", "", err
	}
	text, err := os.ReadFile(filepath.Join(top, "go.work"))
	if err != nil {
		return "", "", err
	}
	sum, err := os.ReadFile(filepath.Join(top, "go.work.sum"))
	if err != nil {
		return "", "", err
	}
	work = regexp.MustCompile(`(?m)^\t\.`).ReplaceAllString(string(text), "\t"+root+"/.")
	return work + "\nuse .\n", string(sum), nil
}

var aboutBlock = regexp.MustCompile(`blocks/(block\d+)`)

// build has the go command vet every block, and link those that are to be run.
func (g *goBlocks) build() (problems []problem, err error) {
	all := slices.Sorted(maps.Keys(g.blocks))
	if len(all) == 0 {
		return nil, nil
	}
	var paths, programs []string
	for _, name := range all {
		paths = append(paths, "./"+name)
		if g.blocks[name].has("run") {
			programs = append(programs, "./"+name)
		}
	}
	var linked []problem
	var linkErr error
	var linking sync.WaitGroup
	if len(programs) > 0 {
		linking.Go(func() {
			linked, linkErr = g.tool(goFlags(), append([]string{"build", "-o", filepath.Join(g.folder, programFolder) + "/"}, programs...)...)
		})
	}
	// Without flags, because what it finds out about dependencies is kept by its flags.
	problems, err = g.tool("GOFLAGS="+os.Getenv("GOFLAGS"), append([]string{"vet"}, paths...)...)
	linking.Wait()
	// A fragment may end in a return, after which the variables are used.
	problems = slices.DeleteFunc(problems, func(p problem) bool { return p.text == "unreachable code" })
	if len(problems) == 0 { // else it says the same
		problems = linked
	}
	return problems, errors.Join(err, linkErr)
}

// tool runs the go command in an environment with one variable more, and finds the pages of what it says.
func (g *goBlocks) tool(environment string, arguments ...string) ([]problem, error) {
	cmd := exec.Command("go", arguments...)
	cmd.Dir, cmd.Env = g.folder, append(os.Environ(), "GOWORK="+filepath.Join(g.folder, "go.work"), environment)
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return g.assign(string(out)), nil
	}
	return nil, err
}

// goFlags has the go command build as it built this test: then most of what blocks and examples need is built already.
func goFlags() string {
	flags := os.Getenv("GOFLAGS")
	if raceDetector {
		flags += " -race"
	}
	return "GOFLAGS=" + flags
}

const programFolder = "programs"

// program is where the program of a block is.
func (g *goBlocks) program(b *block) string {
	for name, other := range g.blocks {
		if other == b {
			return filepath.Join(g.folder, programFolder, name)
		}
	}
	return ""
}

// has says whether the program of a block could be built.
func (g *goBlocks) has(b *block) bool {
	_, err := os.Stat(g.program(b))
	return err == nil
}

var (
	inPage = regexp.MustCompile(`^(?:vet: )?(\S+\.md):(\d+):(?:\d+:)? (.*)$`)
	inFile = regexp.MustCompile(`(block\d+)/block(?:_test)?\.go:(\d+):(?:\d+:)? (.*)$`)
)

// assign finds the pages of what the go command said.
func (g *goBlocks) assign(out string) (problems []problem) {
	current := ""
	for _, line := range strings.Split(out, "\n") {
		if m := aboutBlock.FindStringSubmatch(line); m != nil {
			current = m[1]
		}
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		if m := inPage.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[2]) // digits
			page := m[1]
			if !filepath.IsAbs(page) { // the go command shortens what lies near
				page = filepath.Join(g.folder, page)
			}
			problems = append(problems, problem{relative(page), n, m[3]})
		} else if m := inFile.FindStringSubmatch(line); m != nil && g.blocks[m[1]] != nil {
			n, _ := strconv.Atoi(m[2])
			problems = append(problems, problem{g.blocks[m[1]].page, g.blocks[m[1]].line + n - 1, m[3]})
		} else if b := g.blocks[current]; b != nil {
			problems = append(problems, b.problem("%s", line))
		} else {
			problems = append(problems, problem{"", 0, line})
		}
	}
	return problems
}

// relative is the name of a page below the repository.
func relative(page string) string {
	root, err := filepath.Abs(top)
	if err != nil {
		return page
	}
	if page, err = filepath.Abs(page); err != nil {
		return page
	}
	if rel, err := filepath.Rel(root, page); err == nil {
		return filepath.ToSlash(rel)
	}
	return page
}
