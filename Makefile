# make install | demo | test | unit | check | docs | wasm | soak | fuzz | reproduce-bunny
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PORT := 8080
WASM := -target wasm32-freestanding -O3 -nostdlib -Wall -Wextra -Werror \
	-Wl,--no-entry,-z,stack-size=65536,--strip-all,--export=__heap_base
SIMD := generic+simd128+bulk_memory+nontrapping_fptoint+sign_ext
# One test more than there are cores: some of them wait for sockets and disks.
JOBS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# The tests start hundreds of interpreters; without compiled modules, each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test unit check docs wasm soak fuzz reproduce-bunny peers clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt $(wildcard encoder/kernels/*.[ch] encoder/kernels/*.py)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

# Fits the bundled sample (about two minutes on two cores), exports it and serves it.
demo: bunny.nerv
	$(PYTHON) -m export onnx bunny.nerv
	$(PYTHON) -m player serve bunny.nerv --port $(PORT)

bunny.nerv: | $(INSTALLED)
	$(PYTHON) -m encoder fit --audio 24k

test: install peers
	$(PYTHON) -m pytest -n $(JOBS) --dist worksteal --durations 10 -m 'not alone and not soak'
	$(PYTHON) -m pytest --durations 10 -m 'alone and not soak'

# The tests that connect to nothing.
unit: install
	$(PYTHON) -m pytest -n $(JOBS) --dist worksteal -m 'not alone and not soak' --ignore tests/e2e --ignore tests/soak

# What takes long: all networks, kills and resumptions, clusters; and what is measured of streaming, with what it comes to.
soak: install peers
	$(PYTHON) -m pytest -n $(JOBS) --dist worksteal -m 'soak and not alone'
	LOAD_SECONDS=30 WATCH_SECONDS=30 $(PYTHON) -m pytest -s -m 'soak and alone'
	$(PYTHON) tests/support/latency.py

# Browsers, and a media server, that the player is tested with.
peers:
	sh tests/support/install_peers.sh

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-logo
	$(PYTHON) .ci/prose.py

# Builds the documentation into site/, the tutorial with its outputs.
docs: install
	$(VENV)/bin/mkdocs build --strict

# Compiles the kernels of the page that decodes in the browser, by the C compiler in the package ziglang.
wasm: install
	$(VENV)/bin/pip install --quiet --disable-pip-version-check ziglang==0.17.1
	$(PYTHON) -m ziglang cc $(WASM) -mcpu=$(SIMD) -o export/web/site/kernels.wasm export/web/kernels/*.c
	$(PYTHON) -m ziglang cc $(WASM) -mcpu=$(SIMD)+relaxed_simd -o export/web/site/kernels-fused.wasm export/web/kernels/*.c
	cd export/web && sha256sum kernels/*.[ch] site/*.wasm > kernels/checksums

# The papers' comparison, which needs a GPU for some hours.
reproduce-bunny: install
	$(PYTHON) -m benchmarks paper --resize 1280x720 --presets nerv nerv++ 'nerv*++' hnerv --device cuda -o reproduction

# 200,000 mutated files, which takes its time.
fuzz: install
	$(PYTHON) tests/support/fuzz.py

clean:
	rm -rf $(VENV) site bunny.nerv bunny.onnx encoder/kernels/*.so
