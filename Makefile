# make install | demo | test | check | fuzz | reproduce-bunny
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PORT := 8080

.PHONY: install demo test check fuzz reproduce-bunny peers clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

# Fits the bundled sample (about two minutes on two cores), exports it and serves it.
demo: bunny.nerv
	$(PYTHON) -m export onnx bunny.nerv
	$(PYTHON) -m player serve bunny.nerv --port $(PORT)

bunny.nerv: | $(INSTALLED)
	$(PYTHON) -m encoder fit

test: install peers
	$(PYTHON) -m pytest -n auto --dist worksteal -m 'not alone'
	$(PYTHON) -m pytest -m alone

# Browsers, and a media server, that the player is tested with.
peers:
	sh tests/install_peers.sh

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-logo

# The papers' comparison, which needs a GPU for some hours.
reproduce-bunny: install
	$(PYTHON) -m encoder compare encoder/data/bunny_720p.mp4 --resize 1280x720 --epochs 300 --device cuda --codecs \
	  --presets nerv nerv++ 'nerv*++' hnerv --bits 8 --prune 0.2 --coder huffman -o reproduction
	$(PYTHON) docs/reproduction.py reproduction

# 200,000 mutated files, which takes its time.
fuzz: install
	$(PYTHON) tests/fuzz.py

clean:
	rm -rf $(VENV) bunny.nerv bunny.onnx
