# Everything runs from a virtual environment in this checkout, made from uv.lock. Only python3 and make are needed.
.DEFAULT_GOAL := help
.PHONY: help setup demo test simulate bench fuzz format clean system-programs

PYTHON ?= python3
BIN := .venv/bin
UV_VERSION := $(shell sed -n '/^name = "uv"$$/{n;s/version = "\(.*\)"/\1/p;}' uv.lock)
STAMP := .venv/.landline-set-up

help:
	@echo "make demo    a control server, 8 simulated machines and a live view of them"
	@echo "make test    every check: format, lint, types, import contracts, tests"
	@echo "make simulate  whole systems under virtual time: crashes, cuts, silence; ARGS='--seeds 2000' or '--ablate'"
	@echo "make bench   benchmarks beside peers"
	@echo "make fuzz    ten minutes of random bytes at everything that reads a stranger's (ARGS=--help says more)"
	@echo "make setup   only the set-up: .venv in this checkout"
	@echo "make format  format the code"

setup: $(STAMP)

$(STAMP): uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "landline needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=..."; exit 1; }
	@echo "[1/3] Making the virtual environment .venv"
	@$(PYTHON) -m venv .venv || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "[2/3] Installing uv $(UV_VERSION) into it"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@echo "[3/3] Installing what uv.lock names"
	@VIRTUAL_ENV= $(BIN)/uv sync --system-certs --frozen --all-extras --inexact --quiet --python $(BIN)/python
	@touch $@
	@echo "Ready."

demo: setup
	@$(BIN)/landline demo

simulate: setup
	@$(BIN)/python -m tests.simulation $(ARGS)

# Only the plots need more than the set-up: matplotlib, about 90 MB.
bench: setup
	@VIRTUAL_ENV= $(BIN)/uv sync --system-certs --frozen --all-extras --group plots --inexact --quiet --python $(BIN)/python
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
		VIRTUAL_ENV= $(BIN)/uv sync --system-certs --frozen --all-extras --group plots --inexact --quiet --python $(BIN)/python; \
	fi

test: setup system-programs
	@echo "Format and lint (ruff)"
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted; run 'make format'."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@echo "Types (mypy --strict)"
	@$(BIN)/mypy --no-error-summary
	@echo "Import contracts (import-linter)"
	@$(BIN)/lint-imports --no-cache >.venv/import-linter.log || { cat .venv/import-linter.log; exit 1; }
	@echo "Tests (pytest, four at a time), with branch coverage of landline.session; five to eight minutes"
	@$(BIN)/python -m pytest --quiet -n 4 --dist worksteal --cov --cov-report=term

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .coverage
