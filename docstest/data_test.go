package docstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/go-lifeguard/lifeguard"
)

// parse reads a block that is data.
func parse(b *block, scratch string) (problems []problem) {
	complain := func(err error) {
		if err != nil {
			problems = append(problems, b.problem("%v", err))
		}
	}
	switch b.lang {
	case "json":
		if !json.Valid([]byte(b.text)) {
			complain(errors.New("this is not JSON"))
		}
	case "yaml":
		complain(parseYAML(b.text))
		if b.has("rules") {
			complain(promtool(scratch, b.text, "check", "rules"))
		}
		if b.has("config") {
			complain(promtool(scratch, b.text, "check", "config", "--syntax-only"))
		}
	case "promql":
		complain(promtool(scratch, asRules(b.text), "check", "rules"))
	case "dsn":
		for i, line := range strings.Split(b.text, "\n") {
			line, _, _ = strings.Cut(line, "  --")
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			if _, _, err := lifeguard.ParseDSN(line, lifeguard.DefaultConfig()); err != nil {
				problems = append(problems, problem{b.page, b.line + i, err.Error()})
			}
		}
	}
	return problems
}

func parseYAML(text string) error {
	for documents := yaml.NewDecoder(strings.NewReader(text)); ; {
		var any any
		if err := documents.Decode(&any); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

var betweenQueries = regexp.MustCompile(`\n\s*\n`)

// asRules makes a file of rules from queries with an empty line between them.
func asRules(queries string) string {
	var b strings.Builder
	b.WriteString("groups:\n- name: page\n  rules:\n")
	for i, query := range betweenQueries.Split(strings.TrimSpace(queries), -1) {
		text, err := json.Marshal(query)
		if err != nil {
			panic(err) // of a string
		}
		fmt.Fprintf(&b, "  - record: query%d\n    expr: %s\n", i, text)
	}
	return b.String()
}

// promtool checks a file that has this text.
func promtool(scratch, text string, arguments ...string) error {
	file, err := os.CreateTemp(scratch, "*.yaml")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	out, err := exec.Command("promtool", append(arguments, filepath.Clean(file.Name()))...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("promtool: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
