package docstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pageLimit is how long the commands of a page may take. It ends a hang; nothing waits for it.
const pageLimit = 10 * time.Minute

// begin is what the session defines first. What takes minutes or changes files is kept for later: see kept_test.go.
// apt-get says what it would install.
const begin = `set -eu
cd "$CHECK_TOP"
export PATH="$CHECK_TMP:$PATH" PGCONNECT_TIMEOUT=10 PAGER=cat PSQL_PAGER=cat TERM=dumb
unset DATABASE_URL PORT
keep() { { printf '%s\0' "$(pwd)" "$@"; printf '\n\0'; } >>"$CHECK_TMP/kept"; }
go() {
	case ${1-}/${2-} in
	test/* | get/* | install/* | tool/* | run/./benchmarks/cmd/compare) keep go "$@" ;;
	build/-o) link "${@:3}" ;;
	run/./*) link "$CHECK_TMP/" "$2" && "$CHECK_TMP/$(basename "$2")" "${@:3}" ;;
	*) command go "$@" ;;
	esac
}
link() { # where to, and packages; a program that another page has is there already
	command go build -o "$CHECK_SHARED/" "${@:2}"
	local package
	for package in "${@:2}"; do ln -f "$CHECK_SHARED/$(basename "$package")" "$1"; done
}
make() { keep make "$@"; }
sudo() { "$@"; }
apt-get() { command apt-get --simulate "$@"; }
await() { # a port, the log of who is to listen there, and a file that is there when it has ended
	for _ in $(seq 3000); do
		if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
		if [ -e "$3" ]; then break; fi
		sleep 0.1
	done
	cat "$2"
	echo "nobody listens on the port"
	return 1
}
`

// sharedPrograms is the folder of what the pages build.
var sharedPrograms = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "docstest-programs-")
	if err != nil {
		panic(err) // nothing can be tried
	}
	return dir
})

// A session runs the commands of one page.
type session struct {
	page    string
	scratch string
	blocks  []*block // those that are run, and texts to compare with
	go_     *goBlocks
	with    *substitutes
	logs    map[string][]served
}

// served is what listens on a port of the page from one block on.
type served struct {
	from int
	log  string
}

// serves notes that a block begins to listen on a port, and gives the file that is its log.
func (s *session) serves(port string, block int) (log string) {
	log = fmt.Sprintf("%s/serve%d", s.scratch, block)
	if s.logs == nil {
		s.logs = map[string][]served{}
	}
	s.logs[port] = append(s.logs[port], served{block, log})
	return log
}

// logged looks for what the page says that its servers print.
func (s *session) logged(ctx context.Context) (problems []problem) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for i, b := range s.blocks {
		port, ok := b.rules["log"]
		if !ok {
			continue
		}
		log := ""
		for _, server := range s.logs[port] {
			if server.from < i {
				log = server.log
			}
		}
		for {
			text, err := os.ReadFile(log)
			line := missing(b.text, s.with.back(string(text)))
			if err == nil && line == "" {
				break
			}
			if ctx.Err() != nil {
				problems = append(problems, b.problem("the server on port %s does not print %q, but:\n%s", port, line, text))
				break
			}
			time.Sleep(50 * time.Millisecond) // nobody tells when another process has printed something
		}
	}
	return problems
}

// run runs what the page has to run, and compares what is printed.
func (s *session) run() (problems []problem, err error) {
	script, err := s.script()
	if err != nil || script == "" {
		return nil, err
	}
	root, err := filepath.Abs(top)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pageLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = append(os.Environ(), "CHECK_TOP="+root, "CHECK_TMP="+s.scratch, "CHECK_SHARED="+sharedPrograms(), goFlags())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := os.Create(filepath.Join(s.scratch, "out")) // no pipe: servers would keep it open
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	failed := cmd.Run()
	if failed == nil {
		problems = s.logged(ctx)
	}
	if cmd.Process != nil { // what the page has started goes with it
		err = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			err = nil
		}
	}
	printed, readErr := os.ReadFile(out.Name())
	if err := errors.Join(err, readErr); err != nil {
		return nil, err
	}
	problems = append(problems, s.judge(string(printed), failed, ctx.Err())...)
	kept, err := s.kept()
	return append(problems, kept...), err
}

// script is one bash script of all blocks, each between two lines that say so.
func (s *session) script() (string, error) {
	var b strings.Builder
	b.WriteString(begin)
	commands := false
	for i, block := range s.blocks {
		if block.lang == "text" {
			continue
		}
		commands = true
		if port, serves := block.rules["serve"]; serves && len(s.logs[port]) > 0 {
			if err := s.with.renew(port); err != nil {
				return "", err
			}
		}
		text, err := s.commands(i, block)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "echo; echo '\x1eblock %d'\n", i)
		status, expected := block.rules["status"]
		port, serves := block.rules["serve"]
		switch {
		case serves:
			log := s.serves(port, i)
			mine := s.with.ports[port]
			// A grandchild, so that a plain wait of the page does not wait for it.
			fmt.Fprintf(&b, "( ( set +e; ( set -e; echo $BASHPID >\"$CHECK_TMP/%s.pid\"; export PORT=%s\n%s\n) </dev/null >%s 2>&1; touch %s.ended ) & )\n"+
				"await %s %s %s.ended\ncat %s\n", port, mine, text, log, log, mine, log, log, log)
		case expected:
			fmt.Fprintf(&b, "set +e\n{\n%s\n} </dev/null\ngot=$?\nset -e\nif [ $got != %q ]; then echo \"status $got, want %s\"; exit 99; fi\n", text, status, status)
		default:
			fmt.Fprintf(&b, "{\n%s\n} </dev/null\n", text)
		}
	}
	if !commands {
		return "", nil
	}
	fmt.Fprintf(&b, "echo; echo '\x1eblock %d'\n", len(s.blocks))
	return b.String(), nil
}

// commands are what bash runs for a block.
func (s *session) commands(i int, b *block) (string, error) {
	switch b.lang {
	case "sh":
		return s.with.in(b.text), nil
	case "console":
		commands, _ := transcript(b.text)
		return s.with.in(commands), nil
	case "sql":
		file := filepath.Join(s.scratch, fmt.Sprintf("block%d.sql", i))
		if b.has("maria") {
			return s.with.mariaClient() + " <" + file, os.WriteFile(file, []byte(b.text), 0o600)
		}
		return fmt.Sprintf("psql -X -q -v ON_ERROR_STOP=1 -f %s '%s'", file, s.with.admin),
			os.WriteFile(file, []byte(prepared(b.text)), 0o600)
	case "go":
		if b.has("serve") {
			return fmt.Sprintf("export DATABASE_URL='%s'\nexec %s", s.with.database(), s.go_.program(b)), nil
		}
		return fmt.Sprintf("DATABASE_URL='%s' %s", s.with.database(), s.go_.program(b)), nil
	}
	return "", fmt.Errorf("%s: %s is not run", b.at(), b.lang)
}

// prepared has statements with parameters prepared, for which psql has no values.
func prepared(text string) string {
	if !strings.Contains(text, "$1") {
		return text
	}
	var out strings.Builder
	for i, statement := range strings.SplitAfter(text, ";") {
		if strings.TrimSpace(statement) != "" {
			fmt.Fprintf(&out, "PREPARE statement%d AS %s\n", i, statement)
		}
	}
	return out.String()
}

var hereDocument = regexp.MustCompile(`<<-?\s*['"]?(\w+)['"]?`)

// transcript takes what is typed and what is printed apart.
func transcript(text string) (commands, printed string) {
	var typed, shown []string
	until := ""
	for _, line := range strings.Split(text, "\n") {
		command, begins := strings.CutPrefix(line, "$ ")
		switch {
		case until != "":
			typed = append(typed, line)
			if strings.TrimSpace(line) == until {
				until = ""
			}
		case begins || len(typed) > 0 && strings.HasSuffix(typed[len(typed)-1], `\`):
			typed = append(typed, command)
			if m := hereDocument.FindStringSubmatch(command); m != nil {
				until = m[1]
			}
		default:
			shown = append(shown, line)
		}
	}
	return strings.Join(typed, "\n"), strings.Join(shown, "\n")
}

// judge finds the block that failed, and those that print something else than the page says.
func (s *session) judge(printed string, failed, late error) (problems []problem) {
	outputs := map[int]string{}
	last := -1
	for _, part := range strings.Split(printed, "\n\x1eblock ")[1:] {
		number, rest, _ := strings.Cut(part, "\n")
		n, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		last, outputs[n] = n, rest
	}
	if last < len(s.blocks) {
		why := fmt.Sprint(failed)
		if late != nil {
			why = "it takes too long"
		}
		at := problem{page: s.page}
		if last >= 0 {
			at.line = s.blocks[last].line
		} else {
			outputs[last] = printed
		}
		at.text = fmt.Sprintf("%s; it printed:\n%s", why, bytes.TrimSpace([]byte(outputs[last])))
		problems = append(problems, at)
	}
	before := ""
	for i, b := range s.blocks {
		said := ""
		if b.lang == "console" {
			_, said = transcript(b.text)
		} else if b.has("output") {
			said = b.text
		}
		out, ran := outputs[i]
		if b.lang == "text" {
			out, ran = before, i < last
		}
		if ran && i < last {
			if line := missing(said, s.with.back(out)); line != "" {
				problems = append(problems, b.problem("it does not print %q, but:\n%s", line, strings.TrimSpace(s.with.back(out))))
			}
		}
		before = out
	}
	return problems
}

var aNumber = regexp.MustCompile(`\d+(?:\.\d+)?(?:(?:ns|µs|ms|s|m|h)(?:\d+(?:\.\d+)?(?:ms|s|m))*\b)?`)

// missing is the first line of what a page shows that does not come after the others in what was printed.
func missing(said, printed string) string {
	left := strings.Split(printed, "\n")
	for _, line := range strings.Split(said, "\n") {
		if strings.Trim(line, " …") == "" {
			continue
		}
		pattern := lineLike(line)
		for len(left) > 0 && !pattern.MatchString(left[0]) {
			left = left[1:]
		}
		if len(left) == 0 {
			return line
		}
		left = left[1:]
	}
	return ""
}

// lineLike matches lines that differ from this one in numbers, in space, and where it has dots.
func lineLike(line string) *regexp.Regexp {
	const number, dots, space = "\x00", "\x01", "\x02"
	line = aNumber.ReplaceAllStringFunc(strings.TrimSpace(line), func(s string) string {
		if s == "0" {
			return s
		}
		return number
	})
	if strings.HasPrefix(line, "HTTP/") {
		return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(line), number, `[\d.]+`) + `\r?$`)
	}
	line = strings.ReplaceAll(line, "…", dots)
	line = strings.Join(strings.Fields(line), space)
	line = regexp.QuoteMeta(line)
	line = strings.ReplaceAll(line, number, `[\d.]+(?:[nµmsh\d.]*[smh])?`)
	line = strings.ReplaceAll(line, dots, `.*`)
	line = strings.ReplaceAll(line, space, `\s+`)
	return regexp.MustCompile(`^\s*` + line + `\s*$`)
}
