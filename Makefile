# Two commands: `make demo` and `make test`. Each creates what it needs.
SHELL := /bin/bash
PY    ?= python3
VENV  := .venv
BIN   := $(VENV)/bin
# uv does not read pip's configuration: hand it pip's find-links (empty on an ordinary machine), so that a wheel of
# torch kept on this machine is used. The constraints keep torch at the tested build either way.
export UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell $(PY) -m pip config get global.find-links 2>/dev/null))
export UV_LINK_MODE  ?= copy

.PHONY: demo test format bench clean

demo: $(VENV)/.installed
	$(BIN)/landform imprint demo --data digits --output demo.landform --force

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist worksteal

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

$(VENV)/.installed: pyproject.toml constraints.txt overrides.txt
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --override overrides.txt --group dev -e .
	touch $@

clean:
	rm -rf $(VENV) build dist demo.landform
