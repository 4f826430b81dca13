# The README's two commands are `make reproduce` and `make test`; both set up .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: setup reproduce test test-slow test-browser soak lint format lab notebooks teach bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "ktglite needs Python >= 3.11; run: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

reproduce: $(READY)  ## every notebook on the quick profile; ARGS="--set seeds=5" and the like are passed on
	$(BIN)/ktglite reproduce --profile quick $(ARGS)

test: $(READY) lint  ## the fast suite, every notebook on smoke included
	$(BIN)/python -m pytest -m "not slow and not browser" $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-browser: $(READY)  ## the notebooks in JupyterLab and Chromium; needs the packages chromium and chromium-driver
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest -m browser $(ARGS)

soak: $(READY)  ## half an hour and more: 100 kills, full disks, bad files, 10,000 examples; one table at the end
	$(BIN)/python tests/soak.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(READY)  ## the notebooks in JupyterLab, with the kernel of .venv
	$(BIN)/jupyter lab notebooks $(ARGS)

notebooks: $(READY)  ## the outputs of `make reproduce` into the committed notebooks, in English and Japanese
	$(BIN)/ktglite figures --records data/reference_runs/quick --out figures/ja --format png --lang ja
	$(BIN)/python -m ktglite.tools.notebooks $(ARGS)

teach: $(READY)  ## the students' edition of the notebooks, without solutions and outputs, by nbgrader into build/release
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[teach]'
	mkdir -p build/source/ktglite
	cp notebooks/*.ipynb build/source/ktglite/
	cd build && ../$(BIN)/nbgrader generate_assignment ktglite --force --no-db $(ARGS)

bench: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) data/cache data/runs
