# Everything from a bare Python: each target makes .venv as it needs. Another Python: make test PYTHON=python3.13
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
CLIP := $(BIN)/python -m clip_jax
.PHONY: quickstart ship-demo test test-all lint format bench bench-distill bench-teacher bench-loss scale chaos clean
.DEFAULT_GOAL := quickstart

$(VENV)/.base: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("clip_jax needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make $(or $(MAKECMDGOALS),$(.DEFAULT_GOAL)) PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || { echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing (about 600 MB, once)"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

# A model, then a student of half its width and layers with its stored embeddings as teacher, and the same student alone.
quickstart: $(VENV)/.base
	@$(CLIP) train --config configs/quickstart.py --workdir $(RUN)
	@$(CLIP) embed --model $(RUN) --data configs/quickstart_alone.py --store $(RUN)-store
	@$(CLIP) train --config configs/quickstart_student.py:$(RUN) --workdir $(RUN)-student
	@$(CLIP) train --config configs/quickstart_alone.py:$(RUN) --workdir $(RUN)-alone
	@$(CLIP) evaluate $(RUN)
	@$(CLIP) evaluate $(RUN)-student
	@$(CLIP) evaluate $(RUN)-alone
	@$(CLIP) report $(RUN)
	@$(CLIP) report $(RUN) $(RUN)-student $(RUN)-alone

# The quickstart's teacher and student as files for phones, evaluated, and searching a folder of pictures; they are trained first
# where they are not there. Into $(RUN)-shipped.
ship-demo: $(VENV)/.base
	@test -d $(RUN)-student || $(MAKE) --no-print-directory quickstart
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable ".[export,search,browser]"
	@$(BIN)/python -m tests.ship_demo $(RUN) $(RUN)-student $(RUN)-shipped

lint: $(VENV)/.test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

# A worker that dies fails its test at once: a new one would take the same test and could leave the run waiting for ever.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

test: lint
	@$(PYTEST) -m "not slow" --durations 20

# All tests; and again on the newest Python this machine has, where that is another one.
test-all: lint
	@$(PYTEST)
	@newest=$$($(BIN)/python tests/newest_python.py) && if [ -n "$$newest" ]; then \
	  echo "once more on $$newest"; $(MAKE) --no-print-directory test PYTHON="$$newest" VENV=.venv-newest; fi

format: $(VENV)/.test
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(VENV)/.test
	@$(BIN)/python -m tests.bench

# Hours on two cores; it goes on where it was stopped. All that it can be told: python -m tests.bench.distill --help
bench-distill: $(VENV)/.test
	@$(BIN)/python -m tests.bench.distill $(ARGS)

# Minutes: a stored and a live teacher against none. ARGS=--write puts the figures into docs/distillation.md.
bench-teacher: $(VENV)/.test
	@$(BIN)/python -m tests.bench.teacher_cost $(ARGS)

# Ten minutes or more; rows that are there stay. Writes docs/loss_memory.json and docs/loss_memory.md.
bench-loss: $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable ".[plan]"
	@$(BIN)/python -m tests.bench.loss_memory $(ARGS)

# One to sixteen minutes a row, and 27 rows; it goes on where it was stopped. Writes docs/scale.json and docs/scale.md.
scale: $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable ".[plan]"
	@JAX_PLATFORMS=cpu $(BIN)/python -m tests.bench.scale $(ARGS)

# Runs killed at random over 100 times, compared with undisturbed ones; it goes on where it was stopped.
chaos: $(VENV)/.test
	@$(BIN)/python -m tests.chaos --write $(ARGS)

clean:
	rm -rf .venv .venv-newest runs
