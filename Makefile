# Thin calls. The checks themselves are listed in noxfile.py.
# PYTHON=python3.13 chooses the interpreter of .venv; NAME=redis_memory_full one runbook.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)

WORKS := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in .venv/bin/python python3 python3.13 python3.12 python3.11; do \
	$$p $(WORKS) 2>/dev/null && echo $$p && exit; done; echo python3)
PYTEST = .venv/bin/python -m pytest
NOX = .venv/bin/python -m nox

.PHONY: help setup servers demo test unit lint runbook docs bench build clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## .venv with the tools, and a Redis server (idempotent)
	@$(PYTHON) tests/bootstrap/setup.py

servers: ## The same, with PostgreSQL, Prometheus and Kubernetes for their tests, where they can be had
	@$(PYTHON) tests/bootstrap/setup.py --all

demo: setup ## Break a Redis of our own and watch a runbook mend it
	@.venv/bin/python -m tests.demo

test: servers ## Every check, on every ansible-core this machine can run
	@.venv/bin/python -m tests.bootstrap.everything

unit: setup ## The fast loop: pure code only
	@$(PYTEST) tests/unit

lint: setup ## Style, types and docs
	@$(NOX) -s lint typing docs

runbook: servers ## The five proofs of one runbook: make runbook NAME=redis_memory_full
	@$(PYTEST) tests/runbooks/test_$(or $(NAME),$(error name the runbook: NAME=...)).py

docs: setup ## Regenerate what is generated
	@.venv/bin/python -m tests.house.generate

bench: servers ## Measure what a task costs
	@.venv/bin/python -m tests.bench

build: setup ## The artifact, in build/
	@ansible-galaxy collection build --force --output-path build

clean: ## Forget everything that make has made
	rm -rf .venv .nox .cache .ansible .lab build reports
