# `make help` lists the targets.

# All packages of all modules of go.work; ./... alone would leave the nested modules out.
PACKAGES = $(shell go list -m -f '{{.Dir}}/...')
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME = 10s

.DEFAULT_GOAL := help
.PHONY: help check fmt-check vet staticcheck test versions faults fleet soak random bench fuzz servers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: fmt-check vet staticcheck test ## what has to pass before a change lands

fmt-check: ## fail on Go files that gofmt would change
	@files=$$(git ls-files -z '*.go' | xargs -0 gofmt -l) && \
	if [ -n "$$files" ]; then printf 'run gofmt -w on:\n%s\n' "$$files" >&2; exit 1; fi

# vet and staticcheck look at what the race detector's tests are compiled from: on a new machine each dependency is compiled
# once instead of twice, which takes five minutes.
vet: ## go vet
	go vet -race $(PACKAGES)

staticcheck: ## staticcheck (needs Go 1.26)
	go run -exec 'env GOFLAGS=-race' $(STATICCHECK) $(PACKAGES)

# Tests of these packages measure latencies, so each has the machine to itself.
ALONE = /internal/(fleet|session)$$|/benchmarks/

# These take longest. They begin first, and the short ones fill the other core.
LONG = /ecosystem|/internal/(pool|stmtcache)$$|/docstest$$

# What the race detector changes, and what has one goroutine and computes for long: tests of packages that ask for it.
PLAIN = $$(grep -rl --include='*_test.go' aceEnabled internal | xargs -n 1 dirname | sort -u | sed 's|^|./|')

# Packages and tests are compiled first, on all cores; nothing is linked yet. What does not compile is reported by the
# commands after it. vet has looked at everything, so go test does not do so again.
test: servers ## install the servers that the tests run, then test everything with the race detector
	@go list -race -e -export -deps -test $(PACKAGES) >/dev/null 2>&1 || true
	@failed=; run() { echo "$$@"; "$$@" || failed=1; }; \
	run go test -race -vet=off -p 1 -timeout 30m $$(go list $(PACKAGES) | grep -E '$(ALONE)'); \
	others=$$(go list $(PACKAGES) | grep -vE '$(ALONE)'); \
	run go test -race -vet=off -p 3 -timeout 30m $$(echo "$$others" | grep -E '$(LONG)') $$(echo "$$others" | grep -vE '$(LONG)'); \
	run go test -vet=off -count=1 -run 'Allocations|NoReportForThoseInTime|EveryInterleaving|RandomInterleavings|ManyProcesses|RoundByRound|Scenarios' $(PLAIN); \
	test -z "$$failed"

versions: ## the short tests with other versions of Go, and with the newest libraries
	@scripts/test-versions

# Beside the faults: CANCELS queries that are cancelled, and 10,000 checkouts a second that are returned in time, for as
# long as LEAKFREE says, of which none may be reported as a leak.
faults: servers ## break the network and the server under a pool in every way there is; a quarter of an hour
	go test -race -count=1 -timeout 30m -run 'Fault|Recovery|HalfOpen|OwnDeadline|DialsThatFail' ./internal/session -faults
	go test -count=1 -v -timeout 2h -run TestCancelledQueries ./internal/session -cancels $(or $(CANCELS),100000)
	go test -count=1 -v -timeout 30m -run TestNoReportInRealTime ./internal/leak -leakfree $(or $(LEAKFREE),3m)

fleet: servers ## what processes that share fleet_limit promise, with kill -9 and crashes of the server; half an hour, on a machine of its own
	go test -count=1 -v -timeout 1h ./internal/fleet -long -deep -walks 2000

soak: servers ## the mixed storm of faults for as long as SOAK says (10m)
	go test -race -count=1 -v -timeout 24h -run TestSoak ./internal/session -soak $(or $(SOAK),10m)

random: servers ## make up scripts and texts by the thousand, and compare lifeguard with the plain driver; an hour
	go test -count=1 -v -timeout 4h -run 'Random|Composed|MySQLTexts' ./ecosystem/drivertest -scripts 20000 -mysqltexts 5000
	go test -count=1 -v -timeout 4h -run 'Keepable|RandomScripts' ./internal/stmtcache -texts 50000 -scripts 200

bench: servers ## compare with other libraries into docs/benchmarks.md and README, half an hour; BENCH=quick takes 3 minutes
	go run ./benchmarks/cmd/compare -out docs -readme README.md $(if $(filter quick,$(BENCH)),-quick)

servers: # installs what is missing and nothing else
	@scripts/install-servers

fuzz: ## fuzz each target for FUZZTIME (10s)
	@for package in $$(go list $(PACKAGES)); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done
