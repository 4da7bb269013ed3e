# The commands of this project. `make` alone lists them. Portable GNU make 3.81 (what macOS ships).

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Which torch: the pin of constraints.txt, or yours: make install TORCH="torch==2.13.0+cpu"
TORCH ?= $(shell sed -n 's/^torch==.*/&/p' constraints.txt)
# Further words for the command: make run ARGS="--port 9000", make test ARGS="-k langevin"
ARGS ?=
# Where the labelled frames are that benchmarks ask for
DATA ?= data

# Potentials of others have an environment of their own, which sees what is in .venv
CALCULATORS := .venv-calculators

.DEFAULT_GOAL := help
.PHONY: help install run test test-long chaos test-calculators docs check format test-image bench-accuracy clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.ok ## make .venv with everything equipot and its tests need

run: $(VENV)/.ok ## start equipot on this machine: http://127.0.0.1:8000
	@echo "==> equipot serve $(ARGS)"
	@exec $(BIN)/equipot serve $(ARGS)

test: $(VENV)/.ok ## run the tests (minutes)
	@echo "==> pytest $(ARGS)"
	@$(BIN)/python -m pytest $(ARGS)

test-long: $(VENV)/.ok ## run the long tests (minutes to hours)
	@echo "==> pytest -m long $(ARGS)"
	@$(BIN)/python -m pytest -m long --timeout 0 --ignore tests/chaos $(ARGS)

chaos: $(VENV)/.ok ## let a storm of 500 jobs rage over the service (half an hour)
	@echo "==> pytest -m long tests/chaos $(ARGS)"
	@$(BIN)/python -m pytest -m long --timeout 0 -s tests/chaos $(ARGS)

test-calculators: $(VENV)/.ok ## install SevenNet and CHGNet beside .venv and try them
	@echo "==> $(CALCULATORS) with sevenn and chgnet"
	@$(BIN)/python -m venv $(CALCULATORS)
	@$(BIN)/python -c "import site; print(*site.getsitepackages(), sep='\n')" > $(CALCULATORS)/shared.txt
	@cp $(CALCULATORS)/shared.txt "$$($(CALCULATORS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/shared.pth"
	@$(CALCULATORS)/bin/python -m pip --disable-pip-version-check install -q -c $(VENV)/constraints.txt sevenn chgnet
	@echo "==> pytest tests/ecosystem/test_foundation_models.py $(ARGS)"
	@PYTHONPATH="$(CURDIR)/src" $(CALCULATORS)/bin/python -m pytest tests/ecosystem/test_foundation_models.py $(ARGS)

docs: $(VENV)/.ok ## build the documentation into build/docs; warnings are errors
	@echo "==> mkdocs build --strict"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: $(VENV)/.ok ## lint, format, types, layers and the examples of the documentation
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> mypy --strict"
	@$(BIN)/mypy
	@echo "==> lint-imports"
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(MAKE) --no-print-directory docs
	@echo "==> examples of the documentation"
	@$(BIN)/python -m pytest -q tests/docs

format: $(VENV)/.ok ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test-image: $(VENV)/.ok ## check the compose files, build the image and try it (needs root and buildah)
	@echo "==> docker/test-image"
	@docker/test-image

bench-accuracy: $(VENV)/.ok ## recompute the table of accuracy: make bench-accuracy DATA=folder
	@echo "==> benchmarks/accuracy.py $(ARGS)"
	@$(BIN)/python benchmarks/accuracy.py --data $(DATA) $(ARGS)

clean: ## remove .venv, caches and build outputs
	rm -rf $(VENV) $(CALCULATORS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info

$(BIN)/python:
	@rm -rf $(VENV); \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "==> $$python -m venv $(VENV)   ($$("$$python" --version))"; \
	  if "$$python" -c 'import ensurepip, venv' 2>/dev/null && "$$python" -m venv $(VENV); then exit 0; fi; \
	  rm -rf $(VENV); \
	  echo "$$python cannot make a virtual environment. On Debian and Ubuntu: sudo apt install python3-venv" >&2; \
	  exit 1; \
	done; \
	echo "equipot needs Python 3.11 or newer and found none." >&2; \
	echo "  Debian 12, Ubuntu 24.04:  sudo apt install python3 python3-venv" >&2; \
	echo "  macOS:                    brew install python@3.13, or the installer of the Python project" >&2; \
	echo "  somewhere else:           make PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.ok: pyproject.toml constraints.txt $(BIN)/python
	@echo "==> pip install $(TORCH)   (the largest part)"
	@sed 's|^torch==.*|$(TORCH)|' constraints.txt > $(VENV)/constraints.txt
	@$(PIP) install -c $(VENV)/constraints.txt "$(TORCH)"
	@echo "==> pip install -c constraints.txt -e '.[test]'"
	@$(PIP) install -c $(VENV)/constraints.txt -e '.[test]'
	@touch $@
