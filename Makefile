# Everything runs from a virtual environment in this checkout, made from uv.lock. Only python3 and make are needed.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick test-pythons verify-types simulate bench fuzz mutate soak package format clean system-programs

PYTHON ?= python3
# Tests that wait for something leave a processor to others.
WORKERS ?= 4
BIN := .venv/bin
UV_VERSION := $(shell sed -n '/^name = "uv"$$/{n;s/version = "\(.*\)"/\1/p;}' uv.lock)
SYNC = VIRTUAL_ENV= $(BIN)/uv sync --system-certs --frozen --inexact --quiet --python $(BIN)/python
# Each stamp is newer than uv.lock when its packages are installed. The whole set-up includes the demo's.
DEMO_STAMP := .venv/.landline-demo-set-up
STAMP := .venv/.landline-set-up

help:
	@echo "make demo    a control server, 8 simulated machines and a live view of them"
	@echo "make test    every check: format, lint, types, import contracts, tests"
	@echo "make test-quick  the tests of one minute, for between two changes"
	@echo "make soak    hours: every test on both event loops, thousands of seeds, fuzzing, mutants"
	@echo "make mutate  score the tests on small faults put into the code (ARGS=--help says more)"
	@echo "make simulate  whole systems under virtual time: crashes, cuts, silence; ARGS='--seeds 2000' or '--ablate'"
	@echo "make bench   benchmarks beside peers"
	@echo "make fuzz    ten minutes of random bytes at everything that reads a stranger's (ARGS=--help says more)"
	@echo "make test-pythons  the quick tests on every supported Python that is installed"
	@echo "make verify-types  whether every public name has a complete type"
	@echo "make package the wheel and the source distribution, checked for a package index"
	@echo "make setup   only the set-up: .venv in this checkout"
	@echo "make format  format the code"
	@echo "make clean   remove .venv and all caches"

setup: $(STAMP)

# pip installs uv, and uv everything else. Without pip and setuptools the demo needs 25 MB less.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "landline needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=..."; exit 1; }
	@echo "[1/3] Making the virtual environment .venv"
	@$(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "[2/3] Installing uv $(UV_VERSION) into it"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(BIN)/uv pip uninstall --quiet --python $(BIN)/python pip setuptools

$(DEMO_STAMP): uv.lock pyproject.toml | $(BIN)/uv
	@echo "[3/3] Installing the packages of the demo, as uv.lock names them"
	@$(SYNC) --extra fleet --no-default-groups --group setup
	@touch $@

$(STAMP): uv.lock pyproject.toml | $(BIN)/uv
	@echo "[3/3] Installing the packages of the project and of its tests, as uv.lock names them"
	@$(SYNC) --all-extras
	@touch $(DEMO_STAMP) $@
	@echo "Ready."

demo: $(DEMO_STAMP)
	@$(BIN)/landline demo

simulate: setup
	@$(BIN)/python -m tests.simulation $(ARGS)

# Only the plots need more than the set-up: matplotlib, about 90 MB.
bench: setup
	@$(SYNC) --all-extras --group plots
	@$(BIN)/python -m benchmarks $(ARGS)

fuzz: setup
	@$(BIN)/python -m tests.fuzz --minutes 10 $(ARGS)

# Some tests drive real programs: a browser, a virtual screen, a message bus, a clock that jumps; others draw plots. Where CI
# runs as root they are installed; elsewhere those tests are skipped, and say which package they want.
system-programs: setup
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		missing=; \
		command -v chromium >/dev/null || missing="$$missing chromium"; \
		command -v Xvfb >/dev/null || missing="$$missing xvfb"; \
		command -v xdotool >/dev/null || missing="$$missing xdotool"; \
		command -v openbox >/dev/null || missing="$$missing openbox"; \
		command -v dbus-daemon >/dev/null || missing="$$missing dbus"; \
		command -v ip >/dev/null || missing="$$missing iproute2"; \
		command -v nft >/dev/null || missing="$$missing nftables"; \
		ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing="$$missing libfaketime"; \
		if [ -n "$$missing" ]; then \
			echo "Installing for the tests:$$missing"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
		fi; \
	fi
	@if [ "$$CI" = true ]; then \
		$(SYNC) --all-extras --group plots; \
	fi

test: setup system-programs
	@echo "Format and lint (ruff)"
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted; run 'make format'."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@echo "Types (mypy --strict)"
	@$(BIN)/mypy --no-error-summary
	@echo "Import contracts (import-linter)"
	@$(BIN)/lint-imports --no-cache >.venv/import-linter.log || { cat .venv/import-linter.log; exit 1; }
	@echo "Tests of the session (pytest, $(WORKERS) at a time), with its branch coverage"
	@$(BIN)/python -m pytest --quiet -n $(WORKERS) --dist worksteal --cov --cov-report=term -- tests/session
	@echo "All other tests"
	@$(BIN)/python -m pytest --quiet -n $(WORKERS) --dist worksteal --no-cov --ignore tests/session

# What needs no other program, no second Python process and no real waiting.
test-quick: setup
	@$(BIN)/python -m pytest --quiet -n 3 --dist worksteal --no-cov --quick $(ARGS)

# The quick tests on every Python that landline supports and that is installed, each in an environment of its own.
test-pythons: setup
	@for version in 3.11 3.12 3.13; do \
		command -v python$$version >/dev/null || { echo "python$$version is not installed"; continue; }; \
		echo "Python $$version"; \
		UV_PROJECT_ENVIRONMENT=.venv-$$version $(BIN)/uv sync --system-certs --frozen --quiet --all-extras --python python$$version || exit 1; \
		.venv-$$version/bin/python -m pytest --quiet -n 3 --dist worksteal --no-cov --quick $(ARGS) || exit 1; \
	done

mutate: setup
	@$(BIN)/python -m tests.mutation $(ARGS)

soak: setup
	@$(BIN)/python -m pytest --quiet -n $(WORKERS) --dist worksteal --no-cov --both-loops
	@$(BIN)/python -m tests.simulation --seeds 5000
	@$(BIN)/python -m tests.simulation --ablate
	@$(BIN)/python -m tests.faults.closes --count 1000
	@$(BIN)/python -m tests.files.soak
	@$(BIN)/python -m tests.fuzz --minutes 60
	@$(BIN)/python -m tests.mutation --count 300 --seed $$(date +%s)
	@$(BIN)/python -m tests.mutation --known

# Every public name has a complete type (pyright --verifytypes).
verify-types: setup
	@$(SYNC) --all-extras --group types
	@PYTHONPATH="$(CURDIR)/src:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		$(BIN)/basedpyright --pythonpath $(CURDIR)/$(BIN)/python --verifytypes landline --ignoreexternal \
		>.venv/verify-types.log; status=$$?; tail -n 3 .venv/verify-types.log; exit $$status

# What is published: the wheel and the source distribution, and whether a package index accepts them.
package: setup
	@$(SYNC) --all-extras --group package
	@rm -rf dist
	@$(BIN)/uv build --quiet --system-certs
	@$(BIN)/twine check --strict dist/*

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .coverage
