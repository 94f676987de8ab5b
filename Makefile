# make demo   install, export the default tracker, track a clip, leave demo/out.mp4 and demo/out.jsonl
# make test   the whole test suite; with ARGS='-m "not slow"' without what takes more than ten seconds
# make check  lint, format, types, import contracts
PYTHON ?= python3
# Installed on its own first: where a CPU build of this release exists, pip takes it and nothing pulls CUDA packages later.
TORCH ?= torch==2.13.0
BIN := .venv/bin
CLIP ?= ../shared/data/sequences/tir_antiuav9

.PHONY: demo test check clean

.venv/desktop: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[desktop]'
	touch $@

.venv/dev: .venv/desktop
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/desktop
	mkdir -p demo
	$(BIN)/trackctl export --engine fp16 --out demo --frames 40
	if [ -f $(CLIP)/video.avi ]; then \
	  $(BIN)/trackctl track $(CLIP)/video.avi --bundle demo/dcfg-edge-fp16.trk --init "$$(head -n 1 $(CLIP)/groundtruth.txt)" \
	    --save demo/out.mp4 --jsonl demo/out.jsonl; \
	else \
	  $(BIN)/trackctl track synth: --bundle demo/dcfg-edge-fp16.trk --save demo/out.mp4 --jsonl demo/out.jsonl; \
	fi

# Large pages: the weights of a ResNet-50 come and go dozens of times, and each time their pages are asked for anew.
test: .venv/dev
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv demo out build *.egg-info
