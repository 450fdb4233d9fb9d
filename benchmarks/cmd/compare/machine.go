package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// machine is what the figures depend on.
type machine struct {
	cpu, memory, system, postgres string
	busy                          float64           // part of the processors in use by others before the run
	modules                       map[string]string // versions by path
	revision                      string            // of this checkout; "" if it cannot be told
}

// disturbed says from which part of the processors in use by others on that a run is not one on a quiet machine.
const disturbed = 0.1

// busyProcessors is the part of the processors' time that was used while the program slept for d, from 0 to 1; NaN if the
// system does not tell. The load average would count the building of this program too.
func busyProcessors(d time.Duration) float64 {
	total, idle, err := processorTimes()
	if err != nil {
		return math.NaN()
	}
	time.Sleep(d)
	laterTotal, laterIdle, err := processorTimes()
	if err != nil || laterTotal == total {
		return math.NaN()
	}
	return max(0, 1-(laterIdle-idle)/(laterTotal-total)) // the counters are not exact
}

// processorTimes are those since the system was started, in ticks.
func processorTimes() (total, idle float64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[0] != "cpu" {
		return 0, 0, errors.New("/proc/stat does not begin with the processors' times")
	}
	// What is counted for guests, from the ninth on, is in the first two as well.
	for i, text := range fields[1:min(len(fields), 9)] {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, 0, err
		}
		total += v
		if i == 3 || i == 4 { // idle, and waiting for a disk
			idle += v
		}
	}
	return total, idle, nil
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
	m.busy = busyProcessors(time.Second)
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
