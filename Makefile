# make demo   install, and show all four phases of a toy run
# make test   install what the tests need, and run them, but for those that take long
# make test-all   all tests: also long ones, with a browser, several processes, training frameworks
# make coverage   `make test`, and which lines it runs: fails below the floor in pyproject.toml; takes half as long again
# make docs   the site, in build/site; runs the tutorials, and fails on a broken link or a missing docstring
# make check  style and types
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-slow test-all coverage docs check clean

demo: $(VENV)/installed
	@folder=runs/demo-$$(date +%Y%m%d-%H%M%S) && $(BIN)/sgdphases run --preset mixture-turning --out $$folder && \
	  echo "drawing the interactive page ..." && $(BIN)/sgdphases report $$folder > /dev/null && \
	  echo "ready: open $$folder/report.html in a browser"

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal $(COVERAGE)

coverage:
	$(MAKE) test COVERAGE=--cov

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

test-all: test
	$(MAKE) test-slow

docs: $(VENV)/installed-docs
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed .
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed .
	MYPYPATH=build/installed $(BIN)/mypy -p sgdphases

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sgdphases needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is missing; on Debian: apt install python3-venv"; exit 2; }

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[test]'
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests|transformers/models)/' $(VENV)/lib || true
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
