# Every target sets up what it needs in this checkout. Needed beforehand: make, and Python 3.11 or newer
# with venv (tested on 3.11). Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help up down status demo test lint bench clean distclean

help:
	@echo "make up            start everything in the background: Prefect, a worker, the gateway, S3; deploy all flows"
	@echo "make status        what of it runs"
	@echo "make down          end it; ARGS=--purge removes its data too"
	@echo "make demo          hibernate and wake a workspace and make a video, with its own S3 and Prefect server"
	@echo "make demo KEEP=1   the same, and leave the servers up"
	@echo "make test          lint, then all tests"
	@echo "make lint          ruff, mypy and the import contracts alone"
	@echo "make bench         measure against restic, borg, tar and cp; ARGS=--quick for a small try"
	@echo "make clean         remove caches, builds and the demo's data"
	@echo "make distclean     the same, and .venv"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "make: $(PYTHON) is missing or older than 3.11; name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV) (about two minutes, only when pyproject.toml or constraints.txt changed)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --config-settings editable_mode=compat \
	    -c constraints.txt -e '.[s3,control,generate,dev]'
	@touch $@

up: $(INSTALLED)
	@$(BIN)/python -m deployments.stack up

status: $(INSTALLED)
	@$(BIN)/python -m deployments.stack status $(ARGS)

down: $(INSTALLED)
	@$(BIN)/python -m deployments.stack down $(ARGS)

demo: $(INSTALLED)
	$(BIN)/python -m deployments.demo $(if $(KEEP),--keep)

test: lint
	$(BIN)/python -m pytest -n 3

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf .poorwill build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
