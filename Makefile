# Each target makes .venv and installs what it needs; a second run reuses it.
PYTHON ?= python3
# Pins of what CI installs. Empty (`make demo CONSTRAINTS=`) takes what pip finds.
CONSTRAINTS ?= constraints.txt

# Other libraries' Pythons: make bench PEERS="--d3rlpy-python PATH --torchrl-python PATH"
PEERS ?=
BENCH_OUT ?= runs/speed

VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e
OLD_PYTHON := lit_offrl needs Python 3.10 or newer: name one, as in `make demo PYTHON=python3.12`

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed  ## Train IQL and BC on pendulum/mixed and compare them.
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-dev  ## Run all tests, those marked slow too.
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.installed-dev  ## Format, lint, types, then all tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(BIN)/python -m pytest -n auto --dist loadfile

bench: $(VENV)/.installed  ## Measure speed, start-up, growth; PEERS names other libraries.
	$(BIN)/python benchmarks/speed.py --out $(BENCH_OUT) $(PEERS)
	$(BIN)/python benchmarks/startup.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/growth.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/seeds.py --out $(BENCH_OUT)

clean:  ## Remove caches and built files; keep .venv and the runs.
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.installed: EXTRAS =
$(VENV)/.installed-dev: EXTRAS = [dev,ml,sepsis,atari]
# The stamp is touched last: an installation that was cut short is taken up again.
$(VENV)/.installed $(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else sys.argv[1])' '$(OLD_PYTHON)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.$(EXTRAS)'
	@touch $@
