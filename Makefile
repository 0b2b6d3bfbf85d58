# make run     set everything up and let the demo model write        make test   set everything up and run all tests
# make setup   the set-up alone      make lint   ruff and mypy       make wheel  a wheel in dist/
# make train-demo   teach the demo model another author's style (two minutes on two cores)
# make native  the compiled module   make shaders  the SPIR-V        make clean  remove what was built (distclean: .venv too)
#
# Every target may be called again: what is up to date is left alone. PYTHON=python3.12 chooses the Python of .venv.

PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST_ARGS ?=
PROMPT ?= It was in July
TRAIN_PROMPT ?= The Queen

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
# An editable install only links the package (a .pth file); module and SPIR-V are built in place by targets below.
CMAKE_DIR = build/cmake-$(shell $(PY) -c 'import sys; print(sys.implementation.cache_tag)')

.PHONY: run train-demo test setup lint wheel native shaders clean distclean packages packages-test
.DEFAULT_GOAL := setup

run: setup
	@$(PY) -m flux_vk.run -p "$(PROMPT)" -n 64

DEMO := models/flux-demo-5m-Q8_0.gguf
TAUGHT := build/train-demo
WRITE = $(PY) -m flux_vk.run $(1) -p "$(TRAIN_PROMPT)" -n 60 --temperature 0.7 --seed 1

# Before and after; then the same adapter in the weights, which greedy text shows to be the same model.
train-demo: setup
	@echo "== before"; $(call WRITE,$(DEMO))
	@rm -rf $(TAUGHT)
	@$(PY) -m flux_vk.train --config models/train-demo/train.toml --out $(TAUGHT)
	@echo "== after"; $(call WRITE,$(DEMO) --lora $(TAUGHT))
	@$(PY) -m flux_vk.train merge $(DEMO) $(TAUGHT) -o $(TAUGHT)/merged.gguf --type f16
	@echo "== with the adapter in the weights"; $(call WRITE,$(TAUGHT)/merged.gguf)

setup: packages $(VENV)/installed
	@$(MAKE) --no-print-directory native shaders

test: packages-test $(VENV)/installed-test
	@$(MAKE) --no-print-directory native shaders
	@$(MAKE) --no-print-directory lint
	$(PY) -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict

packages:
	@bash native/system_packages.sh run $(PYTHON)

packages-test:
	@bash native/system_packages.sh test $(PYTHON)

$(PY): | packages
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(PY)
	$(PIP) --editable '.[build,grammar,train]'
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(PY)
	$(PIP) --editable '.[test]'
	@touch $(VENV)/installed $@

# Both tools look at every source and do nothing when nothing has changed, so no stamp file can lie about it.
native: $(VENV)/installed
	@[ -e $(CMAKE_DIR)/Makefile ] || cmake -G "Unix Makefiles" -S . -B $(CMAKE_DIR) -DFLUX_VK_INPLACE=ON \
	    -DPython_EXECUTABLE="$(CURDIR)/$(PY)" --log-level=STATUS
	@cmake --build $(CMAKE_DIR) --parallel $(JOBS) --target _kompute -- --no-print-directory

shaders: $(VENV)/installed
	@$(PY) native/compile_shaders.py --out flux_vk/spirv

wheel: packages $(VENV)/installed
	$(PY) -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation \
	    --config-settings=build-dir=build/wheel-{wheel_tag} --wheel-dir dist .
	@ls -1t dist/*.whl | head -n 1

clean:
	rm -rf build dist flux_vk/spirv flux_vk/_kompute*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
