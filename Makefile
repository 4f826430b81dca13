# `make help` lists the targets. Those that need .venv make it first, as `make setup` does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH ?= all
OFFLINE ?=
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
NBCONVERT := $(BIN)/jupyter nbconvert --log-level WARN

.DEFAULT_GOAL := help
.PHONY: help setup reproduce classroom test test-slow test-browser soak mutation lint format lab notebooks
.PHONY: teach slides site bench clean

# Versions and hashes are those of constraints.txt. torch's builds for CPUs have hashes of their own.
ifeq ($(TORCH),cpu)
INSTALL = $(PIP) install --quiet uv && $(BIN)/uv pip install --quiet --python $(BIN)/python \
  --torch-backend cpu --no-verify-hashes --constraint constraints.txt setuptools --requirements pyproject.toml --extra dev
INSTALL_MORE = $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu --no-verify-hashes --requirements
else
INSTALL = $(PIP) install --quiet --require-hashes --requirement constraints.txt
INSTALL_MORE = $(PIP) install --quiet --require-hashes --requirement constraints.txt --requirement
endif

help:
	@echo 'make TARGET [ARGS="passed on to the command"]'
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(READY)  ## everything into .venv: 3 minutes, 6 GB; TORCH=cpu: 1.5 GB, without CUDA

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "ktglite needs Python >= 3.11; run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "installing into $(VENV), which takes a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

reproduce: $(READY)  ## all notebooks on the quick profile, into data/runs/quick
	$(BIN)/ktglite reproduce --profile quick $(ARGS)

classroom: $(READY)  ## the same from the recorded runs, without training, into data/runs/class
	$(BIN)/ktglite reproduce --profile quick --set ready_runs=data/reference_runs/quick --out data/runs/class $(ARGS)

test: $(READY) lint  ## the fast tests, all notebooks on the smoke profile among them
	$(BIN)/python -m pytest -m "not slow and not browser" -n 2 --dist loadfile $(ARGS)

test-slow: $(READY)  ## what takes minutes: kills, whole searches, FractalDB's categories again
	$(BIN)/python -m pytest -m slow $(ARGS)

test-browser: $(READY)  ## notebooks and explorer in Chromium; needs chromium and chromium-driver
	$(INSTALL_MORE) constraints-browser.txt
	$(BIN)/python -m pytest -m browser $(ARGS)

soak: $(READY)  ## 100 kills, full disks, bad files, 10,000 examples: half an hour and more
	$(BIN)/python tests/soak.py $(ARGS)

mutation: $(READY)  ## wrong behaviour put in on purpose: is every one caught by a test?
	$(BIN)/python tests/mutants.py $(ARGS)

lint: $(READY)  ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(READY)  ## mends style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(READY)  ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks $(ARGS)

notebooks: $(READY)  ## the outputs of `make reproduce` into notebooks/ and figures/, both languages
	cp data/runs/quick/figures/* figures/
	$(BIN)/ktglite figures data/reference_runs/quick --out figures
	$(BIN)/ktglite figures data/reference_runs/quick --out figures/ja --format png --lang ja
	rm -rf data/runs/quick_ja
	$(BIN)/python maintain/refresh_notebooks.py
	cp -r data/runs/quick data/runs/quick_ja
	$(BIN)/ktglite reproduce --profile quick --notebooks notebooks/ja --set lang=ja --out data/runs/quick_ja
	$(BIN)/python maintain/refresh_notebooks.py

teach: $(READY)  ## the students' edition, without solutions, hidden tests and outputs, into build/release
	$(INSTALL_MORE) constraints-teach.txt
	PYTHONPATH=maintain $(NBCONVERT) --to notebook --output-dir build/source/ktglite \
	  --NotebookExporter.preprocessors=students_edition.StripSolutions notebooks/0*.ipynb
	cd build && ../$(BIN)/nbgrader generate_assignment ktglite --force --no-db $(ARGS)

# Slides load reveal.js, require.js, jQuery and MathJax from the network, unless OFFLINE=1 fetches
# them once by npm into build/slides.
SLIDES = $(if $(OFFLINE),\
  --SlidesExporter.reveal_url_prefix=node_modules/reveal.js \
  --SlidesExporter.require_js_url=node_modules/requirejs/require.js \
  --SlidesExporter.jquery_url=node_modules/jquery/dist/jquery.min.js \
  '--SlidesExporter.mathjax_url=node_modules/mathjax/MathJax.js?config=TeX-AMS_CHTML-full')

slides: $(READY)  ## the lectures as slides into build/slides; OFFLINE=1: work without a network
	mkdir -p build/slides
	$(if $(OFFLINE),npm install --silent --no-save --prefix build/slides \
	  reveal.js@4 requirejs@2 jquery@3 mathjax@2)
	$(NBCONVERT) --to slides --no-input --output-dir build/slides --SlidesExporter.reveal_scroll=True $(SLIDES) notebooks/0*.ipynb $(ARGS)

site: $(READY)  ## notebooks, docs and the explorer as pages without a network, into build/site
	$(BIN)/python maintain/site.py $(ARGS)

# Other scripts in benchmarks/ train for hours, need a GPU or data, or read records.
MEASURE = speeds training_step end_to_end input fractaldb sources memory search_overhead

bench: $(READY)  ## speed and memory on this processor
	for script in $(MEASURE); do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean:  ## deletes .venv, build, caches and runs
	rm -rf $(VENV) build data/cache data/runs
