# What a newcomer and the CI call. All of it happens in .venv, which the first target you call makes; the stamp files in
# there tell what is installed, so that a second call costs nothing. Every version is pinned in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

export NO_ALBUMENTATIONS_UPDATE := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:  # one pip at a time in one venv
.PHONY: help demo test check lint types imports format clean

help:  ## Show this list
	@echo "pairsift: curate image-text pairs. Needs Python 3.10 or newer; nothing else has to be set up first."
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do \
		printf '%-16s %s\n' "$$target" "$$what"; done
	@echo
	@echo "  The first call installs what it needs into $(VENV); another Python: make demo PYTHON=python3.12"

demo: $(VENV)/.demo  ## Curate a few photographs, served, downloaded and sifted on this machine alone
	$(BIN)/pairsift demo

test: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: lint types imports test  ## Run all that CI runs: lint, types, import rules, tests

lint: $(VENV)/.dev  ## Check style and form (ruff; hadolint for the image)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/Dockerfile

types: $(VENV)/.dev  ## Check types (mypy, strict)
	$(BIN)/python -m mypy

imports: $(VENV)/.dev  ## Check which module may import which (import-linter)
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev  ## Put the code into its form and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove .venv and all that was built or cached
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache pairsift-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv that was interrupted while it was made has the mark .unfinished, or no pip that runs: it is made anew.
$(VENV)/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo "pairsift needs Python 3.10 or newer, and $(PYTHON) is not: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@if [ -e $(VENV)/.unfinished ] || ! $(PIP) --version >/dev/null 2>&1; then \
		echo "Making $(VENV) with $$($(PYTHON) --version)"; \
		rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.unfinished && $(PYTHON) -m venv $(VENV) && rm $(VENV)/.unfinished; \
	fi
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.ready
	@echo "Installing pairsift and what its demonstration needs into $(VENV): a few minutes the first time"
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.ready
	@echo "Installing pairsift and what its tests need into $(VENV): a few minutes the first time"
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.demo $@
