# Each target does its own set-up: what it needs beside Go is installed from Debian's packages, npm and
# PyPI where that is allowed, or named together with how to get it.

GO ?= go
STATICCHECK := $(GO) tool staticcheck
GOVULNCHECK := $(GO) tool govulncheck

.PHONY: help demo build test test-model lint check bench fuzz

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## Build bin/ringback.
	@scripts/setup-go.sh
	@$(GO) build -o bin/ringback ./cmd/ringback

demo: build ## One whole round trip: job, event, signed callback, verification.
	@bin/ringback demo

test: ## All tests with the race detector, crash tests and released SDKs included.
	@scripts/setup-go.sh
	@scripts/setup-e2e.sh
	@scripts/test.sh . e2e

test-model: ## The same way through a small real model, run by llama.cpp.
	@scripts/setup-go.sh
	@scripts/setup-e2e.sh
	@scripts/setup-model.sh > /dev/null
	@scripts/test.sh e2e -- -tags model -run '^TestModel'

lint: ## Format, vet, staticcheck.
	@scripts/setup-go.sh
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	@$(GO) vet ./... && $(GO) vet -tags crashtest ./... && (cd e2e && $(GO) vet ./... && $(GO) vet -tags model ./...)
	@$(STATICCHECK) ./... && (cd e2e && $(GO) tool -modfile=../go.mod staticcheck -tags model ./...)

check: lint ## Fast: lint, known vulnerabilities, unit tests.
	@out=$$($(GOVULNCHECK) ./... 2>&1); status=$$?; \
	  if [ $$status = 0 ] || [ $$status = 3 ]; then echo "$$out" | tail -n 5; [ $$status = 0 ]; \
	  else echo "govulncheck: its database can't be reached; not checked"; fi
	@scripts/s3.sh > /dev/null
	@$(GO) test -race $$($(GO) list ./... | grep -vE '/(crashtest|examples)')

bench: ## Measure throughput and latency against a bare HTTP loop.
	@scripts/setup-go.sh
	@$(GO) run ./internal/bench

fuzz: ## Run each fuzz target for a while: make fuzz FUZZTIME=1m
	@scripts/fuzz.sh $(or $(FUZZTIME),10s)
