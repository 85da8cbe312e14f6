# Two commands for a fresh machine: `make demo` and `make test`. Each sets everything up by itself.
# All that they write goes to .venv and .wss in this folder; a FiftyOne database elsewhere is never touched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Not compiled by pip, which does it on one core alone.
PIP     = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
# Templates among the packages are no Python: what does not compile is left alone.
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib wss_data wss_train || true
STATE  := $(CURDIR)/.wss

export WSS_HOME         := $(STATE)/data
export WSS_DATABASE_DIR := $(STATE)/database

# Status 1: done, but something was left out and reported, such as an image that cannot be read. The road goes on.
GO_ON := || [ $$? -eq 1 ]

# The demo is short on purpose: fewer iterations than the recipe `cpu`.
DEMO_ITERATIONS ?= --set generator_iterations=120 --set final_iterations=160

.PHONY: help install develop demo voc-animals voc20 view browser test tests lint docs clean

help:
	@echo "make demo                      the whole road on drawn images: dataset, masks, models, table (minutes, offline)"
	@echo "make demo IMAGES=FOLDER        the same up to the mask generator, on your images (FOLDER/<class>/*.jpg)"
	@echo "make voc-animals DATA=FOLDER   the whole road on real photographs (ten minutes on 2 cores)"
	@echo "make voc20 DATA=FOLDER         the same for the twenty classes of PASCAL VOC [SEEDS=0,1] (half an hour a seed on 2 cores)"
	@echo "make view [DATASET=drawn]      browse a dataset made by the above in the FiftyOne App"
	@echo "make test                      lint and tests"
	@echo "make gpu-check                 what wants a GPU: its tests, speed, and equality with the CPU (8 minutes)"
	@echo "make docs                      the documentation as a site, with search and every module: .wss/site/index.html"
	@echo "make clean                     remove what the above wrote, datasets included"

install: $(VENV)/installed

$(VENV)/installed: setup.cfg constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[database]'
	$(COMPILE)
	touch $@

# What tests and lint need beside it; one package of it is compiled: g++.
develop: $(VENV)/developing

$(VENV)/developing: $(VENV)/installed
	$(PIP) --editable '.[database,dev]'
	$(COMPILE)
	touch $@

# $(call DONE,DATASET), the end of each of the roads below: how to look at what it made, and how to go on by hand.
define DONE
	@echo; echo "Open the dataset in the FiftyOne App:  make view$(if $(1), DATASET='$(1)')"
	@echo "To type commands as the pages in docs/ show them, paste these two lines:"
	@echo "  export PATH='$(abspath $(BIN))':\"\$$PATH\" WSS_HOME='$(WSS_HOME)' WSS_DATABASE_DIR='$(WSS_DATABASE_DIR)'"
	@echo "  cd '$(STATE)'"
endef

ifdef IMAGES
demo: install
	$(BIN)/wss-data build --images '$(IMAGES)' --name '$(or $(NAME),my-images)' $(GO_ON)
	$(BIN)/wss-train generator '$(or $(NAME),my-images)' --recipe cpu $(DEMO_ITERATIONS) --out '$(STATE)/runs/$(or $(NAME),my-images)/generator'
	$(call DONE,$(or $(NAME),my-images))
else
demo: install
	$(BIN)/wss-data build drawn
	$(BIN)/wss-data import-target drawn
	$(BIN)/wss-train ablation drawn drawn-target --recipe cpu $(DEMO_ITERATIONS) --out '$(STATE)/runs/drawn'
	$(call DONE)
endif

ifdef DATA
voc-animals: install
	$(BIN)/wss-data build voc_animals --images '$(DATA)/web_animals/images' $(GO_ON)
	$(BIN)/wss-data import-target voc_animals '$(DATA)/voc_animals'
	$(BIN)/wss-train ablation voc-animals voc-animals-target --recipe cpu --out '$(STATE)/runs/voc-animals'
	$(call DONE,voc-animals)
else
voc-animals:
	@echo "Give the folder that holds web_animals/images/<class>/*.jpg and voc_animals/ (VOC layout): make voc-animals DATA=FOLDER" >&2; exit 2
endif

SEEDS ?= 0,1

ifdef DATA
voc20: install
	$(BIN)/wss-data build voc20 --images '$(DATA)/web20/images' $(GO_ON)
	$(BIN)/wss-data import-target voc20 '$(DATA)/voc20'
	$(BIN)/wss-train ablation voc20 voc20-target --recipe cpu-labels --seeds '$(SEEDS)' --out '$(STATE)/runs/voc20'
	$(call DONE,voc20)
else
voc20:
	@echo "Give the folder that holds web20/images/<class>/*.jpg and voc20/ (VOC layout): make voc20 DATA=FOLDER" >&2; exit 2
endif

view: install
	$(BIN)/wss-data view '$(or $(DATASET),drawn)'

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests marked `browser` drive the App. Without a Chromium they are skipped, with a reason.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null; \
	} || echo "no Chromium: the tests that drive the App will be skipped (apt install chromium)"

# Lint beside the tests: types are checked by one process, and tests wait for disks, databases and processes.
test: develop browser
	@$(MAKE) --no-print-directory --jobs=2 lint tests

# Each process starts a database of its own; the tests of a file stay together, as they share what they built, and the
# files in the order of tests/conftest.py. One process more than there are processors: a quarter of the time is waiting.
tests:
	$(BIN)/python -m pytest -m 'not slow' -n $(shell expr $$(nproc) + 1) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# GPU_PYTHON=python3 takes an interpreter that has the packages, in place of setting one up. PEAK: TFLOP/s in bf16.
ifdef GPU_PYTHON
gpu-check:
else
gpu-check: develop
endif
	$(or $(GPU_PYTHON),$(BIN)/python) tests/benchmarks/gpu_check.py $(if $(PEAK),--peak $(PEAK))

docs: develop
	$(BIN)/python -m mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml
	@echo "The site: .wss/site/index.html. Its search asks for a server: $(BIN)/python -m http.server --directory .wss/site"

clean:
	rm -rf $(VENV) '$(STATE)'
