# `make` or `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help env demo test test-all test-pythons sweep kills bench gpu lab notebooks evidence clean
PYTHONS := python3.13 python3.12 python3.11
PYTHON ?= $(firstword $(foreach python,$(PYTHONS),$(shell $(python) -c 'print("$(python)")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
NOTEBOOKS := 00_data 01_tagger 02_baseline 03_concatenation 04_attention 05_combined 06_results 07_your_recordings 08_rivals
PATHS := $(NOTEBOOKS:%=notebooks/%.ipynb)
export ASC_RESULTS ?= $(CURDIR)/results/local
export JUPYTER_PLATFORM_DIRS = 1

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "install one of $(PYTHONS), or name yours: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

env: $(VENV)/installed ## install everything into .venv

demo: env ## data, tagger and six systems on `mini`, ending with a table (about five minutes)
	@mkdir -p $(ASC_RESULTS)/mini/notebooks
	@echo "== 01_tagger and 00_data, in parallel"
	@# the systems wait for the tagger; and kernels that start at once may take the same TCP port
	@$(call execute,01_tagger) & tagger=$$!; sleep 3; $(call execute,00_data) && wait $$tagger
	@echo "== 02_baseline to 05_combined: six systems, one per core at a time"
	@started=$$(date +%s) && $(BIN)/asc sweep systems --data mini && echo "   $$(( $$(date +%s) - started )) s"
	@$(BIN)/asc tables --data mini > $(ASC_RESULTS)/mini/tables.md & table=$$!; \
	  $(call execute,06_results) && wait $$table && cat $(ASC_RESULTS)/mini/tables.md
	@echo; echo "The executed notebooks are in $(ASC_RESULTS)/mini/notebooks; run your own with: make lab"

define execute
started=$$(date +%s) && $(BIN)/papermill --no-progress-bar --log-level ERROR notebooks/$(1).ipynb \
  $(ASC_RESULTS)/mini/notebooks/$(1).ipynb && echo "   $(1): $$(( $$(date +%s) - started )) s"
endef

test: env ## ruff, unit tests, notebooks through nbval and papermill (about nine minutes on two cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	ASC_RESULTS=$$(mktemp -d) $(BIN)/pytest -q -m 'not slow' -n 2 --dist loadscope \
	  --no-loadscope-reorder --nbval-lax \
	  $(filter-out %/07_your_recordings.ipynb %/08_rivals.ipynb,$(PATHS)) tests \
	  notebooks/07_your_recordings.ipynb

test-all: test ## the same, notebook 08 as it is, and the slow tests: 56 cells, a stand-in for TAU 2019
	$(BIN)/pytest -q -m slow -n 2 tests
	ASC_RESULTS=$$(mktemp -d) $(BIN)/pytest -q --nbval-lax notebooks/08_rivals.ipynb

test-pythons: ## the tests under each Python version that is here, in an environment of its own
	@for python in $(PYTHONS); do \
	  $$python --version || { echo "== no $$python"; continue; }; \
	  $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$python || exit 1; \
	done

sweep: env ## all 56 cells of the paper on `mini`, one per core or GPU at a time (an hour)
	$(BIN)/asc sweep all --data mini

kills: env ## kill downloads, packing, tagging, training and saving 100 times (20 minutes)
	$(BIN)/python tests/kill_nine.py --kills 100

bench: env ## our speed beside the plain way, to results/bench (a quarter of an hour)
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench.sweeps

gpu: ## is a GPU right, and how fast? without .venv: make gpu PYTHON=python3
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m tests.bench.gpu $(BENCH)

lab: env ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir notebooks

notebooks: env ## execute the notebooks in place, as they are committed
	$(BIN)/jupyter nbconvert --to notebook --inplace --execute --ExecutePreprocessor.record_timing=False \
	  --ExecutePreprocessor.store_widget_state=False $(PATHS)
	$(BIN)/python tests/tidy_notebooks.py $(PATHS)

evidence: export ASC_RESULTS = $(CURDIR)/results/again
evidence: env ## the sweeps of RESULTS.md, in results/again (a day on two cores)
	for sweep in main attention_in_time tag_targets tags_only; do \
	  $(BIN)/asc sweep $$sweep --data esc50 --tags yamnet --seeds 0 1 2 3 4 || exit 1; done
	$(BIN)/asc sweep yamnet_controls --data esc50 --seeds 0 1 2
	for character in 0 1; do \
	  for sweep in first tags_only; do \
	    $(BIN)/asc sweep $$sweep --data esc50@$$character --tags yamnet --seeds 0 1 2 || exit 1; done; done
	for sweep in attention combined_shared tags_only controls; do \
	  $(BIN)/asc sweep $$sweep --data esc50 --seeds 0 1 2 || exit 1; done
	$(BIN)/asc sweep tags_only --data esc50 --tags true --seeds 0 1 2
	$(BIN)/asc sweep taggers --data esc50
	$(BIN)/asc sweep rivals --data esc50 --tags yamnet
	$(BIN)/asc sweep all --data mini
	for data in mini esc50; do $(BIN)/asc probe --data $$data || exit 1; done
	for data in mini esc50 esc50@0 esc50@1; do $(BIN)/asc tables --data $$data || exit 1; done
	$(BIN)/asc paper
	$(BIN)/asc simulate

clean: ## remove what was made from the data; data sets and records stay
	rm -rf data/made
