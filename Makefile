# Two commands do all set-up: `make demo` and `make test`. Both need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint docs clean

demo: .venv/library
	$(BIN)/jaxgen train ngp demo --out runs/demo
	$(BIN)/jaxgen render runs/demo --limit 4 --turntable 36 --size 160
	@echo "open file://$(CURDIR)/runs/demo/report.html"

test: .venv/tools
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-all: .venv/tools
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/basedpyright --level error

docs: .venv/docs
	$(BIN)/python docs/figures.py
	$(BIN)/python docs/notebooks.py
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "open file://$(CURDIR)/docs/_build/html/index.html"

clean:
	rm -rf .venv

# The folder is made anew when what it must hold changes.
.venv/library: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("jaxgen needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@echo "installing jaxgen into .venv: about a minute"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/docs: .venv/library
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

# The PyTorch peers are tested where they install; elsewhere their tests skip.
.venv/tools: .venv/library
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[peers]" \
		|| echo "the extra 'peers' does not install here: parity tests will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[speech]" \
		|| echo "the extra 'speech' does not install here: tests of sound will be skipped"
	touch $@
