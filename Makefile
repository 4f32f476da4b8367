# sandboxd: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
TOOLS := $(GO) tool -modfile=tools/go.mod
PREFIX ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)
# Downloads and images are kept outside of the tree, and shared between clones.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sandboxd
TINY := $(CACHE)/tiny.qcow2
GUESTADDITIONS := $(CACHE)/guestadditions.qcow2
INSTALLER := $(CACHE)/installer.iso
# How long make soak works.
DURATION ?= 5m

##@ Try it

.PHONY: quickstart
quickstart: ## Install what is missing, build everything, and show a sandbox's whole life
	hack/install-deps
	$(MAKE) build tiny
	hack/quickstart kvm $(TINY)

.PHONY: quickstart-virtualbox
quickstart-virtualbox: ## The same on VirtualBox; where none is installed, on a private one that is fetched
	hack/install-deps
	$(MAKE) build guestadditions
	hack/quickstart virtualbox $(GUESTADDITIONS)

##@ Build

.PHONY: build
build: ## Build bin/sandboxd
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/sandboxd ./cmd/sandboxd

.PHONY: install
install: build ## Install the program and its completions under PREFIX (default /usr/local), and a systemd unit where systemd looks
	PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' hack/install

.PHONY: uninstall
uninstall: ## Remove what make install installed
	PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' hack/install --uninstall

.PHONY: tiny
tiny: ## Build the tiny golden image from Debian packages, unless it is up to date
	images/tiny/build $(TINY)

.PHONY: installer
installer: tiny ## Build the test installer, an ISO that installs the tiny image's system, unless it is up to date
	images/installer/build $(INSTALLER) $(TINY)

.PHONY: generate
generate: ## Regenerate deepcopy functions, CRDs and docs/manifests.md from api/v1
	$(TOOLS) controller-gen object paths=./api/v1
	$(TOOLS) controller-gen crd paths=./api/v1 output:crd:dir=api/v1/crds
	UPDATE_DOCS=1 $(GO) test -count=1 -run TestManifestReference ./cmd/sandboxd/internal/cli

.PHONY: guestadditions
guestadditions: ## Build the test guest with VirtualBox's Guest Additions, unless it is up to date
	images/guestadditions/build $(GUESTADDITIONS)

##@ Check

.PHONY: test
test: ## Run the tests: unit, conformance, command line, and end to end on real libvirt and VirtualBox
	hack/install-deps
	hack/fetch-modules
	$(MAKE) vet build tiny
	hack/test $(TINY) $(GUESTADDITIONS)

.PHONY: test-libvirt
test-libvirt: ## The same without those on a real VirtualBox, but all of those on libvirt
	hack/install-deps
	hack/fetch-modules
	$(MAKE) vet build tiny
	hack/test $(TINY)

.PHONY: test-virtualbox
test-virtualbox: ## All tests on a real VirtualBox, which is fetched, not installed
	hack/install-deps
	$(MAKE) build guestadditions installer
	images/guestadditions/smoke-test $(GUESTADDITIONS)
	SANDBOXD_INSTALLER_ISO=$(INSTALLER) hack/test-virtualbox $(GUESTADDITIONS)

.PHONY: test-kube-apiserver
test-kube-apiserver: build tiny ## The same daemon on a real kube-apiserver, which is built the first time: some 30 CPU minutes
	hack/install-deps
	hack/test-kube-apiserver $(TINY)

.PHONY: test-unit
test-unit: ## Run the tests that need no hypervisor
	$(GO) test -race ./...

.PHONY: test-kubectl
test-kubectl: build ## Check the API with kubectl 1.20 and a current one, and with unmodified client-go and controller-runtime programs
	hack/test-kubectl

.PHONY: crash-matrix
crash-matrix: build tiny ## Kill the daemon at every point of every operation and print the table; ON="simulated libvirt virtualbox"
	hack/install-deps
	hack/crash-matrix $(TINY) $(ON)

.PHONY: soak
soak: build tiny ## Work a daemon hard on a real libvirt (DURATION=5m), and look for what is left over (SEED repeats the choices)
	hack/install-deps
	hack/soak $(TINY) --duration $(DURATION) $(if $(SEED),--seed $(SEED))

.PHONY: fuzz-short
fuzz-short: ## Run every fuzz target for two seconds: minutes, and more the first time, when all is built for it
	hack/fuzz 2s

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (default 5m), which takes hours
	hack/fuzz $(or $(FUZZTIME),5m)

.PHONY: soak-simulated
soak-simulated: ## A week of two hosts in simulated time, with everything going wrong (SIMULATED=168h; SEED repeats the plan)
	SOAK_SIMULATED=$(or $(SIMULATED),168h) $(if $(SEED),SOAK_SEED=$(SEED)) $(GO) test -count=1 -timeout 30m -v -run '^TestSoak$$' ./test/soak

.PHONY: test-storm
test-storm: ## Storms on the API server at full size: idle, slow and hostile clients by the thousand (make test has small ones)
	SANDBOXD_STORM=1 $(GO) test -count=1 -timeout 15m -v -run 'TestStorm|TestMalformed|TestBombs|TestSelectorBombs|TestCutOff|TestPipelined|TestManyWriters' ./apiserver

.PHONY: test-gitops
test-gitops: build ## Drive a simulated daemon by the engines of Flux and Argo CD (their modules are fetched and built: minutes)
	cd test/gitops && SANDBOXD_BIN='$(CURDIR)/bin/sandboxd' SANDBOXD_REQUIRE_CLIENTS=1 $(GO) test -count=1 -timeout 20m -v ./...

.PHONY: vet
vet: ## Run go vet
	$(GO) vet ./...

.PHONY: vet-darwin
vet-darwin: ## Compile everything for macOS, tests too, and run go vet on it (make test checks the types only)
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./...

.PHONY: lint
lint: ## Run golangci-lint, gofumpt and shellcheck
	$(TOOLS) golangci-lint run
	@unformatted=$$($(TOOLS) gofumpt -l $$(git ls-files '*.go')); \
	  [ -z "$$unformatted" ] || { echo "not formatted (run make fmt):"; echo "$$unformatted"; exit 1; }
	@if command -v shellcheck >/dev/null; then shellcheck -x $$(git grep -lE '^#!/bin/(ba)?sh' -- hack images .ci); else echo "shellcheck is not installed: shell scripts were not checked"; fi

.PHONY: fmt
fmt: ## Format the Go code
	$(TOOLS) gofumpt -w $$(git ls-files '*.go')

.PHONY: verify
verify: ## Check that generated code is up to date
	$(MAKE) generate
	git diff --exit-code -- api docs

.PHONY: bench
bench: build tiny ## Print benchmarks, one line per figure: "bench: NAME VALUE UNIT"
	hack/bench $(TINY)

.PHONY: bench-snapshots
bench-snapshots: build tiny ## Print what going back to a snapshot costs beside making the sandbox again, and what a diff costs
	hack/bench $(TINY) snapshots

.PHONY: bench-api
bench-api: build ## Print what the wire API costs with 10,000 objects, beside a real kube-apiserver where one is built
	hack/bench-api

.PHONY: bench-virtualbox
bench-virtualbox: ## Count the processes and the time of a clone's life on VirtualBox beside the commands by hand
	hack/install-deps
	$(MAKE) guestadditions
	hack/test-virtualbox $(GUESTADDITIONS) -run NONE -bench Life -benchtime 20x
	hack/test-virtualbox $(GUESTADDITIONS) -run NONE -bench Address -benchtime 4x

##@ Other

.PHONY: clean
clean: ## Remove what was built in the tree
	rm -rf bin

.PHONY: help
help: ## Show this list
	@[ -t 1 ] && bold=$$'\033[1m' plain=$$'\033[0m' || bold= plain=; \
	awk -v bold="$$bold" -v plain="$$plain" 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s%s%s\n", bold, substr($$0, 5), plain} /^[a-zA-Z0-9_-]+:.*## / {printf "  %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
