# make train   set up the environment (once) and train on the embedded data set
# make test    set up the environment (once) and run the tests, a process for each core (at most 4)
# make lint    ruff and mypy
#
# PYTHON=... picks the interpreter (3.11 to 3.13); ARGS=... goes to the command: make train ARGS="--epochs 3"

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c '$(SUPPORTED)' 2>/dev/null && echo $(p))))
VENV := .venv
ARGS ?=

.PHONY: train test lint

train: $(VENV)/installed
	$(VENV)/bin/python -m elcrec_tf.train $(ARGS)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(VENV)/installed
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy

$(VENV)/installed: requirements.txt
	@$(if $(PYTHON),,echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1)
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "error: $(PYTHON) is `$(PYTHON) --version 2>&1`; elcrec_tf needs Python 3.11 to 3.13: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
