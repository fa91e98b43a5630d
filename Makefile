# make quickstart   from a fresh machine to a trained model: environment, corpus, training, evaluation, predictions
# make demo         a web page for the checkpoint bibier-tiny, which comes with the package
# make test         the fast tests;  make test-slow  the slow ones;  make lint  ruff, ty and hadolint;  make docs  the site
# make audit        known vulnerabilities of the locked dependencies, by pip-audit (needs the network)
# make clean        remove the environment, caches, and outputs/quickstart

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
export NO_MKDOCS_2_WARNING := 1

.PHONY: install quickstart demo test test-slow lint audit format docs lock clean
.DEFAULT_GOAL := install

install: $(INSTALLED)

# Older pips know no dependency groups (--group came with 25.1), so pip comes first.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q 'pip>=25.1'
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[all]' --group dev
	@touch $@

TRAIN_QUICKSTART := HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --quiet --config_file recipes/accelerate_configs/cpu.yaml recipes/train.py recipes/quickstart.yaml --overwrite true

quickstart: $(INSTALLED)
	$(TRAIN_QUICKSTART)
	rm -rf outputs/quickstart/evaluation  # an earlier version's is of another corpus
	HF_HUB_OFFLINE=1 $(BIN)/bibier evaluate outputs/quickstart --corpus quickstart --output_dir outputs/quickstart/evaluation
	@echo && echo 'outputs/quickstart, which knows synthetic voices:' && echo
	@HF_HUB_OFFLINE=1 $(BIN)/bibier predict outputs/quickstart --demo
	@echo && echo 'bibier-tiny, which comes with the package and knows only people, on the same clips:' && echo
	@HF_HUB_OFFLINE=1 $(BIN)/bibier predict bibier-tiny --demo

demo: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/bibier demo bibier-tiny

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'  # one thread for each of two processes

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)
	$(BIN)/hadolint Dockerfile

audit: $(INSTALLED)
	@mkdir -p .cache
	$(BIN)/uv export --quiet --frozen --all-extras --no-emit-project --output-file .cache/locked.txt
	$(BIN)/uvx pip-audit --disable-pip --require-hashes --requirement .cache/locked.txt

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet

lock: $(INSTALLED)
	$(BIN)/uv lock

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis outputs/quickstart build dist
