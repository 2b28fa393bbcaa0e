# Every target sets up what it needs in this checkout. Needed beforehand: make, and Python 3.11 or newer
# with venv (tested on 3.11). Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# What `test-gpu` and `bench-gpu` run with. GPU_EXTRA=gpu-cu13: the libraries for CUDA 13, in an environment of their
# own, as both have the same files. GPU_PYTHON=python3: an interpreter that has all packages already (bench/README.md).
GPU_EXTRA ?= gpu
GPU_VENV := $(if $(filter gpu,$(GPU_EXTRA)),$(VENV),.venv-$(GPU_EXTRA))
GPU_INSTALLED := $(if $(GPU_PYTHON),,$(GPU_VENV)/.installed-$(GPU_EXTRA))
GPU_PYTHON ?= $(GPU_VENV)/bin/python

# `make lock` has a tool of its own, as it is needed when $(VENV) cannot be made yet: after a change of pyproject.toml.
UV := .venv-lock/bin/uv
LOCK := UV_PYTHON_DOWNLOADS=never $(UV) pip compile --quiet --universal --upgrade --no-annotate \
    --custom-compile-command 'make lock'
HASHED := $(LOCK) --constraints constraints.txt --generate-hashes --only-binary :all:
SHIPPED := poorwill/remote/install
IMAGES := deployments/docker
# $(call without,FILES): options that leave out the packages which those files pin.
without = $$(sed -nE 's/^([^ =]+)==.*/--no-emit-package \1/p' $(1))

.DEFAULT_GOAL := help
.PHONY: help up down status demo test test-long chaos test-gpu lint lock bench bench-gpu clean distclean

help:
	@echo "make up            start everything in the background: Prefect, a worker, the gateway, S3; deploy all flows"
	@echo "make status        what of it runs"
	@echo "make down          end it; ARGS=--purge removes its data too"
	@echo "make demo          hibernate and wake a workspace and make a video, with its own S3 and Prefect server"
	@echo "make demo KEEP=1   the same, and leave the servers up"
	@echo "make test          lint, then all tests but the long ones"
	@echo "make test-long     the tests that are long by nature: fuzzing, chaos, a kill at every call, a browser"
	@echo "make chaos         signals to random processes, 300 rounds; ARGS='--rounds 20 --seed 7' for a small try"
	@echo "make lint          ruff, mypy, the import contracts, lengths and rooms alone"
	@echo "make lock          pin the newest versions that work together, and hashes of what is shipped"
	@echo "make test-gpu      the tests that need an NVIDIA GPU, and its wheels alone; GPU_EXTRA=gpu-cu13 for CUDA 13"
	@echo "make bench-gpu     measure what that GPU does; ARGS=--quick for a small try"
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
	    -c constraints.txt -e '.[s3,control,generate,gpu,dev]'
	@touch $@

$(GPU_VENV)/.installed-$(GPU_EXTRA): pyproject.toml constraints.txt
	@test -x $(GPU_VENV)/bin/pip || $(PYTHON) -m venv --clear $(GPU_VENV)
	@echo "Installing the extra $(GPU_EXTRA) into $(GPU_VENV)"
	@$(GPU_VENV)/bin/python -m pip install -qq --disable-pip-version-check --config-settings editable_mode=compat \
	    -c constraints.txt -e '.[$(GPU_EXTRA),dev]'
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

test-long: $(INSTALLED)
	$(BIN)/python -m pytest -n 3 -m long

chaos: $(INSTALLED)
	@$(BIN)/python -m tests.chaos $(ARGS)

# Without tests/conftest.py and the options of pyproject.toml, which need packages that a GPU machine has not.
test-gpu: $(GPU_INSTALLED)
	@$(GPU_PYTHON) -m pytest -o addopts= -q -rs --confcutdir=tests/gpu tests/gpu || \
	    { status=$$?; test $$status -ne 5 || echo "make: NO GPU WAS TESTED; the line SKIPPED says why" >&2; exit $$status; }

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python -m lint.lengths
	@$(BIN)/python -m lint.rooms

$(UV):
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/python -m pip install -qq --disable-pip-version-check uv==0.13.9

# From Python 3.11 on every package has one version, the one that is tested; 3.10 gets the newest that it can install of
# what the engine needs. So the first list, for 3.11 and later, binds the second, which has both. Hashes are for what is
# sent to machines (all that the package needs, without the command line's rich) and for images; one hash in
# constraints.txt, and pip would refuse to install the package itself.
lock: $(UV)
	@$(LOCK) --python-version 3.11 --fork-strategy fewest --all-extras pyproject.toml --output-file .venv-lock/later.txt
	@sed -i -E '/^[^#]/ s/ *(;.*)?$$/ ; python_version >= "3.11"/' .venv-lock/later.txt
	@printf '%s\n' 'poorwill[s3,gpu,gpu-cu13] @ .' 'poorwill[control,generate,dev] @ . ; python_version >= "3.11"' | \
	    $(LOCK) --python-version 3.10 --constraints .venv-lock/later.txt --no-emit-package poorwill \
	    --output-file constraints.txt -
	@echo rich | $(LOCK) --python-version 3.10 --constraints constraints.txt --output-file .venv-lock/command-line.txt -
	@$(HASHED) --python-version 3.10 $(call without,.venv-lock/command-line.txt) pyproject.toml \
	    --output-file $(SHIPPED)/requirements.txt
	@$(HASHED) --python-version 3.10 --extra gpu \
	    $(call without,.venv-lock/command-line.txt $(SHIPPED)/requirements.txt) pyproject.toml \
	    --output-file $(SHIPPED)/requirements-gpu.txt
	@echo setuptools | $(HASHED) --python-version 3.11 --extra s3 --extra control pyproject.toml - \
	    --output-file $(IMAGES)/requirements-control.txt
	@$(HASHED) --python-version 3.11 --extra generate --extra gpu $(call without,$(IMAGES)/requirements-control.txt) \
	    pyproject.toml --output-file $(IMAGES)/requirements-gpu-worker.txt

bench: $(INSTALLED)
	$(BIN)/python -m bench $(ARGS)

bench-gpu: $(GPU_INSTALLED)
	@$(GPU_PYTHON) -m bench.gpu $(ARGS)

clean:
	rm -rf .poorwill build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -path './.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .venv-gpu-cu13 .venv-lock
