package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// machine is what the figures depend on.
type machine struct {
	cpu, memory, system, postgres, load string
	modules                             map[string]string // versions by path
	revision                            string            // of this checkout; "" if it cannot be told
}

// busy tells whether something else was running: a program that has just been built leaves a load of up to a third of
// the processors.
func (m machine) busy() bool {
	var load float64
	_, err := fmt.Sscan(m.load, &load)
	return err == nil && load > 0.5*float64(runtime.NumCPU())
}

func inspect(ctx context.Context, dsn string) (machine, error) {
	m := machine{
		cpu:     fmt.Sprintf("%d cores", runtime.NumCPU()),
		system:  runtime.GOOS + "/" + runtime.GOARCH,
		modules: map[string]string{},
	}
	if model := field("/proc/cpuinfo", "model name"); model != "" {
		m.cpu = fmt.Sprintf("%s, %d cores", model, runtime.NumCPU())
	}
	var kB float64
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%f kB", &kB); err == nil {
		m.memory = fmt.Sprintf("%.0f GB", kB/1e6)
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.system += ", Linux " + kernelVersion(string(release))
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.load, _, _ = strings.Cut(string(load), " ")
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			m.modules[d.Path] = d.Version
		}
	}
	m.revision = revision(ctx)
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return m, err
	}
	defer db.Close()
	if err := db.QueryRowContext(ctx, "SHOW server_version").Scan(&m.postgres); err != nil {
		return m, err
	}
	if os.Getenv(pgtest.Environment) == "" {
		m.postgres += ", on the same machine, `fsync=off " + strings.Join(serverSettings, " ") + "`"
	}
	return m, nil
}

// revision is the commit that is measured, and whether there are changes on top of it. What the run itself writes is none.
func revision(ctx context.Context) string {
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "" // not a checkout, or no git
	}
	text := strings.TrimSpace(string(commit))
	changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ":/*.go", ":/go.mod").Output()
	if err == nil && len(changes) > 0 {
		text += ", with changes"
	}
	return text
}

// kernelVersion is the number alone: what vendors append names their own machines.
func kernelVersion(release string) string {
	version, _, _ := strings.Cut(strings.TrimSpace(release), "-")
	return version
}

// field is the value of the first line "name: value" of a file, "" if there is none.
func field(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
