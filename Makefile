# sandboxd: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
TOOLS := $(GO) tool -modfile=tools/go.mod

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  \033[1m%-22s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/sandboxd
	$(GO) build -trimpath -o bin/sandboxd ./cmd/sandboxd

.PHONY: generate
generate: ## Regenerate deepcopy functions and CRDs from api/v1
	$(TOOLS) controller-gen object paths=./api/v1
	$(TOOLS) controller-gen crd paths=./api/v1 output:crd:dir=api/v1/crds
