# make test is all that CI runs and all that a change needs; the targets below it are its parts.

# What the tests start beside Go, by the names of Debian's packages. gcc is for the race detector.
DEPS ?= gcc chromium redis-server
# Flags for every go test that runs tests: make race TESTFLAGS='-count=20'
TESTFLAGS ?= -count=1 -timeout=5m
# For each fuzz target, and which: all whose name matches FUZZ.
FUZZTIME ?= 20s
FUZZ ?=
# What make stress plays; the seed is printed, and plays the same again.
STRESSFLAGS ?= -for 1h -clients 3000 -v
# Which Go benchmarks make gobench runs, and how often.
BENCH ?= .
COUNT ?= 1
# What make bench compares, how often and how long each; with neither SCENARIOS nor SERVERS all, which takes 35 minutes.
SCENARIOS ?=
SERVERS ?=
ROUNDS ?= 7
LENGTH ?= 500ms
# Where it writes its tables, charts and results.json.
OUT ?= .tmp/bench
GOLANGCI_VERSION ?= 2.15.0

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help test deps format tidy vet lint cross norace fuzz submodules race guard gobench bench scale stress run fmt

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 14

# The cheap and the strict first; the tests last, so that their result is what stands at the end.
test: deps format tidy vet lint cross norace fuzz guard submodules race ## Everything that CI runs

deps: ## Install what the tests need (Debian as root), or say what is missing
	@.ci/deps $(DEPS)

format: ## Check gofmt; make lint checks gofumpt and the order of imports
	@files=$$(gofmt -l .) && if [ -n "$$files" ]; then printf 'make fmt would change:\n%s\n' "$$files" >&2; exit 1; fi

tidy: ## Check that each go.mod is what go mod tidy makes of it
	@.ci/each env GOWORK=off go mod tidy -diff

vet: ## go vet, all modules
	go vet work
	cd e2e/bench && GOWORK=off go vet ./...

lint: ## golangci-lint, all modules; builds it on first use
	@lint=$$(.ci/lint $(GOLANGCI_VERSION)) && .ci/each "$$lint" run --allow-parallel-runners

fmt: ## Format all modules
	@lint=$$(.ci/lint $(GOLANGCI_VERSION)) && .ci/each "$$lint" fmt

cross: ## Compile the root module, tests included, for the systems that CI does not have
	GOOS=windows go build ./...
	GOOS=windows go vet ./...
	GOOS=darwin go build ./...
	GOOS=darwin go vet ./...

norace: # Autobahn's cases in full size, and that the benchmarks compile and pass; what they measure here means nothing
	go test -run=Autobahn -bench=. -benchtime=1x -timeout=5m ./...

fuzz: ## Every fuzz target, FUZZTIME each: make fuzz FUZZTIME=10m FUZZ=Lifecycle
	@.ci/fuzz $(FUZZTIME) '$(FUZZ)'

submodules: # without the workspace, as a user's build sees them: no module may lean on another's go.mod
	@.ci/each --sub env GOWORK=off go vet ./...
	@ls adapters/*/go.mod | xargs -P 2 -I{} sh -c 'cd "$${1%/go.mod}" && GOWORK=off go test $(TESTFLAGS) ./... || exit 255' _ {}
	cd e2e && GOWORK=off go test $(TESTFLAGS) ./consumer/...

race: ## The tests under the race detector, all modules but e2e/bench
	go test -race $(TESTFLAGS) work

# It is alone on the machine: it measures. The race detector is for what runs goroutines of its own.
guard: ## The tests of e2e/bench, what crowds cost, and whether anything costs much more than it did
	cd e2e && GOWORK=off go test -p 1 $(TESTFLAGS) ./crowd/...
	cd e2e/bench && GOWORK=off go test -race $(TESTFLAGS) ./load
	cd e2e/bench && GOWORK=off go test -p 1 $(TESTFLAGS) . ./scale ./server

bench: ## Compare with other libraries: make bench SCENARIOS='^room' SERVERS=raw,gin,centrifuge ROUNDS=3
	cd e2e/bench && GOWORK=off go run . -scenarios='$(SCENARIOS)' -servers='$(SERVERS)' -rounds=$(ROUNDS) -length=$(LENGTH) \
		-out='$(abspath $(OUT))'

scale: ## 100,000 connections on this machine: make scale SCALEFLAGS='-connections 20000'
	cd e2e/bench && GOWORK=off go run ./scale $(SCALEFLAGS)

stress: ## Thousands of clients that do everything, for an hour with each driver: make stress STRESSFLAGS='-seed 7 -for 5m -driver redis'
	cd e2e && go run ./stress $(STRESSFLAGS)

gobench: ## Go benchmarks with allocations: make gobench BENCH=Publish COUNT=10
	go test -run='^$$' -bench='$(BENCH)' -benchmem -count=$(COUNT) ./...

run: ## Start the chat: make run ARGS='-addr :9000'
	go run ./examples/chat $(ARGS)
