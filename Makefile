# Everything a fresh machine needs: `make demo` and `make test` set up a virtual environment by themselves.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-devices lint types docs setup clean

demo: $(READY)  ## train, export, verify and report on the embedded data; continues if interrupted
	$(BIN)/hetero demo

test: lint types $(READY)  ## static checks and the fast tests
	$(BIN)/python -m pytest

test-slow: $(READY)  ## the minutes-long tests, apart from the fast ones and from those of devices
	$(BIN)/python -m pytest -m "slow and not devices"

# Debian: apt-get install openssh-server adb mmdebstrap gcc gcc-aarch64-linux-gnu chromium npm
test-devices: $(READY)  ## every kind of device for real, about twenty minutes; a missing tool fails
	HETERO_DEVICES=all $(BIN)/python -m pytest -m "slow and devices"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)  ## regenerate the command line reference
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_objectives.py
	$(BIN)/python docs/generate_conversions.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs
