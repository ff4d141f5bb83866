# One command for everything; `make help` lists them. Needs make, Python 3.11+ (with venv and pip) and PyPI.
#
#   PYTHON=...        the interpreter to build .venv with (default: the first of the usual names that is 3.11+)
#   TORCH_INDEX=URL   an extra package index for torch, e.g. PyTorch's own CPU-only wheels
#                     (https://download.pytorch.org/whl/cpu): without it Linux gets PyPI's CUDA build
#   SGSC_EDGE_DATA    folder with mnist/; without it the example uses the cache or downloads

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help

VENV   := .venv
STAMPS := $(VENV)/stamps
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
TORCH_INDEX ?=
PIP_INDEX_FLAGS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

ifneq ($(wildcard ../shared/data/mnist),)
export SGSC_EDGE_DATA ?= $(abspath ../shared/data)
endif

# --- environment ------------------------------------------------------------------------------------------

$(STAMPS)/venv:
	@mkdir -p $(STAMPS)
	@python=""; for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 or newer found ($(or $(PYTHON),python3 python3.11 ... python)); install one, or give PYTHON=/path/to/python" >&2; exit 2; \
	fi; \
	if [ ! -x $(BIN)/python ]; then \
	  echo "creating $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv $(VENV) || { echo "error: this Python cannot create environments (on Debian: apt install python3-venv)" >&2; exit 2; }; \
	fi
	@touch $@

# The build backend comes first and pinned: an isolated build would fetch its own, unpinned.
$(STAMPS)/demo: $(STAMPS)/venv pyproject.toml constraints.txt
	@echo "installing the pinned dependencies (torch is large: this can take minutes)"
	@$(PIP) hatchling editables
	@$(PIP) $(PIP_INDEX_FLAGS) --no-build-isolation -e '.[build]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/demo
	@$(PIP) $(PIP_INDEX_FLAGS) --no-build-isolation -e '.[dev]'
	@touch $@

.PHONY: setup
setup: $(STAMPS)/dev  ## create .venv with everything a developer needs

# --- examples ---------------------------------------------------------------------------------------------

DIGITS := examples/digits
MNIST  := examples/mnist
NAMES  := examples/names

$(DIGITS)/float.safetensors: $(DIGITS)/train.py $(DIGITS)/model.py $(DIGITS)/data.py | $(STAMPS)/demo
	$(BIN)/python $(DIGITS)/train.py

$(MNIST)/float.safetensors: $(addprefix $(MNIST)/,train.py model.py data.py sources.py idx.py) | $(STAMPS)/demo
	$(BIN)/python $(MNIST)/train.py

$(NAMES)/float.safetensors: $(addprefix $(NAMES)/,train.py model.py data.py) | $(STAMPS)/demo
	@$(BIN)/python -c "import sys; sys.path.insert(0, '$(NAMES)'); import data; data.names()" 2>/dev/null \
	  || $(PIP) $(PIP_INDEX_FLAGS) --no-build-isolation -e '.[names]'
	$(BIN)/python $(NAMES)/train.py

.PHONY: demo
demo: $(STAMPS)/demo $(DIGITS)/float.safetensors  ## digits, from float training to a certified int8 .tflite
	$(BIN)/sgsc-edge build $(DIGITS) --target tflite-int8 --out $(DIGITS)/build
	@printf '%s\n' '' "float checkpoint  $(DIGITS)/float.safetensors" \
	  "device model      $(DIGITS)/build/tflite-int8/model.tflite" \
	  "QDQ ONNX          $(DIGITS)/build/tflite-int8/model.qdq.onnx" \
	  "certificate       $(DIGITS)/build/tflite-int8/certificate.json" \
	  "report            $(DIGITS)/build/tflite-int8/report.html" \
	  "check it again    $(BIN)/sgsc-edge verify $(DIGITS)/build/tflite-int8"

.PHONY: mnist
mnist: $(STAMPS)/demo $(MNIST)/float.safetensors  ## the same for the paper's MNIST CNN (several minutes)
	$(BIN)/sgsc-edge build $(MNIST) --target tflite-int8 --out $(MNIST)/build

.PHONY: names
names: $(STAMPS)/demo $(NAMES)/float.safetensors  ## a character language model on first names, to a certified int8 .onnx
	$(BIN)/sgsc-edge build $(NAMES) --target onnx-int8 --out $(NAMES)/build

# --- checks -----------------------------------------------------------------------------------------------

.PHONY: test lint
test: lint  ## lint, types and the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMPS)/dev  ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# --- other runtimes: TensorFlow and tflite-runtime (numpy 1), each in an environment of its own ---------------

RUNTIMES := .runtimes
OTHERS   := tensorflow tflite-runtime

# tflite-runtime has wheels up to Python 3.11, so both environments have that one.
$(RUNTIMES)/%/installed: .ci/runtimes/%.txt
	@mkdir -p $(RUNTIMES)
	@python=""; for candidate in $(or $(PYTHON),python3.11 python3 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "error: tflite-runtime needs Python 3.11; give PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	"$$python" -m venv --clear $(RUNTIMES)/$*
	@echo "installing $* into $(RUNTIMES)/$* (this can take minutes)"
	@$(RUNTIMES)/$*/bin/python -m pip install --disable-pip-version-check --quiet -r $< \
	  || { echo "error: the pinned packages of $< could not be installed (no network, or no wheel for this machine?)" >&2; exit 2; }
	@touch $@

.PHONY: runtimes test-runtimes
runtimes: $(OTHERS:%=$(RUNTIMES)/%/installed)

test-runtimes: runtimes $(STAMPS)/dev $(DIGITS)/float.safetensors  ## verify the demo's build under TensorFlow and tflite-runtime
	$(BIN)/sgsc-edge build $(DIGITS) --target tflite-int8 --target tflite-int4 --out $(DIGITS)/build --quiet
	@rm -rf $(RUNTIMES)/wheel
	@$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation -w $(RUNTIMES)/wheel .
	@for name in $(OTHERS); do \
	  $(RUNTIMES)/$$name/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --force-reinstall $(RUNTIMES)/wheel/*.whl; \
	  $(RUNTIMES)/$$name/bin/python -m pip check; \
	done
	$(BIN)/python .ci/runtimes/check $(RUNTIMES) $(DIGITS)/build/tflite-int8 $(DIGITS)/build/tflite-int4

# --- benchmarks: results go to benchmarks/results/*.json and into docs/results.md ----------------------------

.PHONY: bench-exactness bench-digits bench-budget bench-frontier bench-networks bench-mnist bench-mnist-budget bench-mnist-narrow bench-mixed-plan bench-learned bench-paper bench-scaling bench-step bench-preserve bench-lowering bench-cli bench-newcomer bench-report-time bench-instructions bench-reproducible bench-resume bench-hostile bench-faults bench-device bench-report report-picture
bench-exactness: $(STAMPS)/demo  ## kernels against the integer executor, on the certify sets
	$(BIN)/python -m benchmarks.exactness

bench-digits: $(STAMPS)/demo  ## digits: float against int8, five seeds
	$(BIN)/python -m benchmarks.digits_seeds

bench-budget: $(STAMPS)/demo  ## digits: 30 % of the plain int8 bytes, five seeds
	$(BIN)/python -m benchmarks.digits_budget

bench-frontier: $(STAMPS)/demo  ## digits at three sizes from one compression, and the smallest above a floor
	$(BIN)/python -m benchmarks.digits_frontier

bench-networks: $(STAMPS)/demo  ## a depthwise-separable and a residual network under three budgets
	$(BIN)/python -m benchmarks.networks_budget

bench-mnist: $(STAMPS)/demo $(MNIST)/float.safetensors  ## MNIST: float against int8
	$(BIN)/python -m benchmarks.mnist_int8

bench-mnist-budget: $(STAMPS)/demo  ## MNIST at 20 kB beside its baselines, three seeds (an hour)
	$(BIN)/python -m benchmarks.mnist_budget

bench-mnist-narrow: $(STAMPS)/demo  ## MNIST with 4-bit weights beside 8 bits, three seeds (hours)
	$(BIN)/python -m benchmarks.mnist_narrow

bench-mixed-plan: $(STAMPS)/demo  ## both examples with mixed widths, 4 bits alone and 8 bits alone
	$(BIN)/python -m benchmarks.mixed_plan

bench-learned: $(STAMPS)/demo  ## learned widths: accuracy at equal bytes, storage, instructions; MNIST to 1 kB, names (hours)
	$(BIN)/python -m benchmarks.learned_widths
	$(BIN)/python -m benchmarks.mnist_build_time
	$(BIN)/python -m benchmarks.mnist_learned
	$(BIN)/python -m benchmarks.names_learned

bench-paper: $(STAMPS)/demo  ## the paper's method and ours, row by row: MNIST, names, a rare class, ResNet-18 (hours)
	for model in mnist names rare scale; do $(BIN)/python -m benchmarks.paper --model $$model; done

bench-scaling: $(STAMPS)/demo  ## how planning and lowering grow with layers and weights
	$(BIN)/python -m benchmarks.scaling

bench-step: $(STAMPS)/demo  ## time of a training step over the float step
	$(BIN)/python -m benchmarks.step_time

bench-preserve: $(STAMPS)/demo $(MNIST)/float.safetensors  ## time of choosing MNIST's preservation set
	$(BIN)/python -m benchmarks.preserve_time

bench-lowering: $(STAMPS)/demo  ## lowering time against onnx2tf (makes an environment of its own)
	$(BIN)/python -m benchmarks.lowering_time

bench-newcomer: $(STAMPS)/demo  ## a newcomer's ways in: clone and wheel, each in a new environment
	$(BIN)/python -m benchmarks.newcomer

bench-cli: $(STAMPS)/demo  ## wall time of --help, doctor and verify
	$(BIN)/python -m benchmarks.cli_time

bench-report-time: $(STAMPS)/dev  ## time until a report has opened in Chromium
	$(BIN)/python -m benchmarks.report_time

report-picture: $(STAMPS)/dev  ## take the picture of the digits report that the documentation shows
	$(BIN)/python -m benchmarks.report_screenshot

bench-instructions: $(STAMPS)/dev $(DIGITS)/float.safetensors $(MNIST)/float.safetensors  ## costs of kernels by core and compiler, fitted and checked (half an hour)
	$(BIN)/python -m benchmarks.device.instructions

bench-reproducible: $(STAMPS)/demo  ## two builds, byte for byte
	$(BIN)/python -m benchmarks.reproducible

bench-resume: $(STAMPS)/demo  ## builds that are killed at random moments and started again
	$(BIN)/python -m benchmarks.resume_kill

bench-hostile: $(STAMPS)/dev  ## 10,000 damaged files against the commands that read them (a quarter of an hour)
	$(BIN)/python -m benchmarks.hostile

bench-faults: $(STAMPS)/dev  ## faults in a build whose hashes fit, by command and exit code
	$(BIN)/python -m benchmarks.faults

bench-device: $(STAMPS)/dev $(MNIST)/float.safetensors  ## firmware: size, instructions, the same integers on every board (an hour)
	$(BIN)/sgsc-edge build $(DIGITS) --target tflite-int8 --out $(DIGITS)/build
	$(BIN)/sgsc-edge build $(MNIST) --target tflite-int8 --out $(MNIST)/build
	for part in sizes fresh identity foreign; do $(BIN)/python -m benchmarks.device.$$part; done

bench-report: $(STAMPS)/demo  ## write docs/results.md from the results
	$(BIN)/python -m benchmarks.report

# --- documentation ---------------------------------------------------------------------------------------

.PHONY: docs
docs: $(STAMPS)/demo  ## write docs/config.md and docs/commands.md from the code that they describe
	$(BIN)/python -m sgsc_edge.config_reference > docs/config.md
	$(BIN)/python -m sgsc_edge.command_reference > docs/commands.md
	$(BIN)/python -m sgsc_edge.operator_reference > docs/operators.md

# --- housekeeping -----------------------------------------------------------------------------------------

.PHONY: lock clean help
lock:  ## pin the newest releases that pyproject.toml allows into constraints.txt
	bash .ci/lock

clean:  ## remove the environment, builds and caches (checkpoints and benchmark results stay)
	rm -rf $(VENV) $(RUNTIMES) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis examples/*/build benchmarks/build

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | while IFS='|' read -r name text; do printf '  make %-20s %s\n' "$$name" "$$text"; done
