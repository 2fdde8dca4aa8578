# One word per chore. Each sets up .venv when pyproject.toml or setup.py is newer than it, and only then.
.DEFAULT_GOAL := help
.PHONY: help install harvest test light coverage check format docs pages pictures weights clean
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Ray's workers bring the parallelism; threads beyond them fight over the same cores.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND := Agg
export PYTHONUNBUFFERED := 1
export RAY_USAGE_STATS_ENABLED := 0
# A hundred processes load the same files: each would compile them anew where this is set.
unexport PYTHONDONTWRITEBYTECODE

help:  ## What there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1\t/' | expand -t 12

$(READY): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "harvester needs Python 3.11 or 3.12, found $$($(PYTHON) --version); set PYTHON=python3.11"; exit 1; }
	@echo "setting up .venv: some minutes, 7 GB (most of it torch)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(READY)  ## Set up .venv, and nothing else
	@echo "ready: . .venv/bin/activate, then harvester --help"

harvest: $(READY)  ## The quickstart: phantoms to a report in runs/quickstart/
	$(BIN)/harvester harvest --config quickstart

# RINGS="unit model" runs some of them. A ring, or those that share processes, that breaks its budget (seconds) fails.
ALL_RINGS := unit golden loop model cluster harvest
RINGS ?= $(ALL_RINGS)
budget_unit := 240
budget_golden := 180
budget_loop := 150
budget_model := 300
budget_cluster := 600
budget_harvest := 600

# All at the same time: those with a Ray of their own wait now and then, the others fill the gaps. Their files go to
# several processes, which start once for all of them.
WITH_RAY := $(filter cluster harvest,$(RINGS))
LIGHT := $(filter-out cluster harvest,$(RINGS))
SPREAD := -n auto --maxprocesses=4 --dist=loadfile
COVERAGE := .light.coverage
COVERAGE_FLOOR := 90

test: $(READY)  ## All tests: unit, golden, loop, model, cluster and harvest (local Ray); names the rings that failed
	@failed=""; \
	for ring in $(WITH_RAY); do \
	  ( $(MAKE) --no-print-directory ring-$$ring >.ring-$$ring.log 2>&1; echo $$? >.ring-$$ring.rc ) & \
	done; \
	if [ -n "$(LIGHT)" ]; then $(MAKE) --no-print-directory light || failed="$$(cat .light.failed)"; fi; \
	wait; \
	for ring in $(WITH_RAY); do \
	  cat .ring-$$ring.log; [ "$$(cat .ring-$$ring.rc)" = 0 ] || failed="$$failed $$ring"; rm -f .ring-$$ring.log .ring-$$ring.rc; \
	done; \
	if [ "$(RINGS)" = "$(ALL_RINGS)" ]; then $(MAKE) --no-print-directory coverage || failed="$$failed coverage"; fi; \
	rm -f .light.*; \
	if [ -n "$$failed" ]; then echo "FAILED rings: $$failed"; exit 1; fi; \
	echo "all rings passed: $(RINGS)"

ring-%: $(READY)
	@echo "== $* (budget $(budget_$*) s)"
	@timeout --kill-after=20 $(budget_$*) $(BIN)/python -m pytest tests/$* -q --durations=10

# As nice as Ray's workers, which would wait for it else. What failed is read from pytest's own summary; where it names
# no ring (its budget is over), all of them may have.
light: $(READY)
	@budget=$$(( $(foreach ring,$(LIGHT),$(budget_$(ring)) +) 0 )); echo "== $(LIGHT) (budget $$budget s)"; \
	{ nice -n 15 timeout --kill-after=20 $$budget $(BIN)/python -m slipcover --source=harvester --out=$(COVERAGE) \
	  -m pytest $(LIGHT:%=tests/%) -q --durations=10 $(SPREAD); echo $$? >.light.rc; } | tee .light.log; \
	if [ "$$(cat .light.rc)" != 0 ]; then \
	  grep -oE '^(FAILED|ERROR) tests/[a-z]+' .light.log | sed 's#.*/##' | sort -u | xargs >.light.failed; \
	  [ -n "$$(cat .light.failed)" ] || echo "$(LIGHT)" >.light.failed; exit 1; \
	fi

# Of the rings without Ray; called by test.
coverage:
	@share=$$(awk '/^\(summary\)/ {print $$4}' $(COVERAGE)); \
	echo "coverage of the rings without Ray (floor $(COVERAGE_FLOOR) %): $$share %"; [ "$$share" -ge $(COVERAGE_FLOOR) ]

check: $(READY)  ## Format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## The guide as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pages: $(READY)  ## What docs/ has from the code: settings, columns, the schema of summary.json
	$(BIN)/python docs/generate/settings.py
	$(BIN)/python docs/generate/columns.py
	$(BIN)/python -c "from harvester.run.summary import schema; print(schema(), end='')" > docs/summary.schema.json

pictures: harvest  ## The guide's pictures, from a quickstart and a run on real CT (HARVESTER_DATA): half an hour
	$(BIN)/harvester study --config study --only real_ct --seeds 1 --arms audit --out runs/pictures
	$(BIN)/python benchmarks/audit_run.py runs/pictures/real_ct/seed-1
	$(BIN)/python docs/generate/pictures.py --phantoms runs/quickstart \
	  --proven runs/pictures/real_ct/seed-1-audited --review runs/pictures/real_ct/seed-1

weights: $(READY)  ## The starting weights that ship, made anew from the scans in HARVESTER_DATA: two to three hours
	$(BIN)/harvester pretrain --config pretrain --run runs/pretrain-first
	$(BIN)/harvester pretrain --config pretrain --run runs/pretrain --set seed=8 --set starting_weights=runs/pretrain-first/weights
	$(BIN)/python -c "from harvester.storage.location import Location as At; from harvester.weights import starting as s; \
	  s.StartingWeights.open(At.of('runs/pretrain/weights')).write_whole(At.of(s.SHIPPED_FOLDER))"

clean:  ## Remove caches and the site; runs/ and .venv stay
	rm -rf site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info .light.*
