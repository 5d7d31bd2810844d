# Everything that a person or CI runs. Each target creates .venv when it is not there, or reuses it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
CMAKE_OPTIONS := -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
LIBRARY := engine/lib/liblazyneuron_ops.so
NATIVE := $(shell find engine/native -type f -not -path '*/tests/*' \( -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name 'CMakeLists.txt' -o -name '*.cmake' -o -name '*.map' \))
CXX_FILES := $(shell find engine/native -name '*.cc' -o -name '*.h' -o -name '*.inc')
SANITIZED := native-test-plain native-test-address native-test-thread

.PHONY: demo test lint types native-test $(SANITIZED) bench bench-encoder bench-gpu bench-serve bench-serve-peers soak correctness costs memory instructions instructions-update gpu-kernels setup proto clean

demo: setup ## Train, inspect, export, serve and call a small ViT, and show what was skipped.
	$(BIN)/python examples/digits/demo.py

test: setup .venv/.annalog ## All of the Python tests.
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: setup types native-test ## Formatting, lint, types, and the C++ checks.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

types: setup
	$(BIN)/python -m mypy

native-test: $(SANITIZED) ## The C++ tests, plain and sanitized.

native-test-plain: SANITIZE :=
native-test-address: SANITIZE := address;undefined
native-test-thread: SANITIZE := thread
$(SANITIZED): native-test-%: setup
	$(BIN)/cmake -S engine/native -B build/$@ $(CMAKE_OPTIONS) -DCMAKE_BUILD_TYPE=Release -DLAZYNEURON_TESTS=ON \
		-DLAZYNEURON_STRICT=ON -DLAZYNEURON_SANITIZE="$(SANITIZE)" -DLAZYNEURON_LIBRARY_DIRECTORY=$(CURDIR)/build/$@ > /dev/null
	$(BIN)/cmake --build build/$@ -- --quiet
	$(BIN)/ctest --test-dir build/$@ --output-on-failure

bench: setup ## The operators against ONNX Runtime's dense MatMul and MLP block, on this machine.
	$(BIN)/python benchmarks/sparse_down.py
	$(BIN)/python benchmarks/sparse_mlp.py

# One thread, on a machine with all of these instruction sets: what export plans by where nothing was measured.
costs: setup ## Measure again the costs that come with lazyneuron.
	for isa in avx512vnni avx2; do \
		LAZYNEURON_ISA=$$isa $(BIN)/python -m lazyneuron bench --operators --threads 1 --output engine/costs/$$isa.json || exit 1; \
	done

bench-encoder: setup .venv-peers/.installed ## A T5-base-shaped encoder against ONNX Runtime, PyTorch, OpenVINO and CTranslate2.
	$(BIN)/python benchmarks/encoder.py --picture docs/encoder.png

bench-gpu: setup ## MLP blocks and an encoder on this machine's GPU, against dense fp16 and the device's limits; without one it says so.
	$(BIN)/python benchmarks/gpu/run.py --output build/bench-gpu.json

bench-serve: setup bench-serve-peers ## The server against its engine, and against MLServer, Triton's Python backend and Ray Serve.
	$(BIN)/python benchmarks/serve/run.py

bench-serve-peers: .venv-mlserver/.installed .venv-pytriton/.installed .venv-ray/.installed ## The environments of those.

# pytriton's server wants the Python of Debian, with its shared library.
.venv-pytriton/.installed: PYTHON := $(shell test -x /usr/bin/python3.11 && echo /usr/bin/python3.11 || echo $(PYTHON))
.venv-mlserver/.installed .venv-pytriton/.installed .venv-ray/.installed: .venv-%/.installed: benchmarks/serve/requirements-%.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --requirement $<
	touch $@

soak: setup ## Ten minutes of mixed requests and faults.
	$(BIN)/python benchmarks/serve/soak.py

correctness: setup ## Wrong answers among 200,000 mixed requests.
	$(BIN)/python benchmarks/serve/correctness.py

memory: setup ## What a served artifact keeps in memory, against a dense session.
	$(BIN)/python benchmarks/memory.py

instructions: setup ## The operators' instruction counts against the record (needs valgrind).
	$(BIN)/python benchmarks/instructions.py

instructions-update: setup ## Record the operators' instruction counts anew.
	$(BIN)/python benchmarks/instructions.py --update

gpu-kernels: setup ## Compile the GPU kernels ahead of time; needs no GPU. CUBINS=1: machine code for today's GPUs as well.
	$(BIN)/python -m lazyneuron.engine.gpu.build $(if $(CUBINS),--cubins)

setup: .venv/.installed $(LIBRARY)

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[export,sign,tracing,dev]'
	touch $@

# What the encoder's benchmark compares with; never in the product's environment.
.venv-peers/.installed: benchmarks/requirements-peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement $<
	touch $@

# Someone else's trained weights. Its dependencies are not needed; without it the tests that are say so and are skipped.
.venv/.annalog: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps annalog && touch $@ || true

# Installing builds it already; a change to a source builds it again.
$(LIBRARY): $(NATIVE) | .venv/.installed
	$(BIN)/cmake -S engine/native -B build/native $(CMAKE_OPTIONS) -DCMAKE_BUILD_TYPE=Release > /dev/null
	$(BIN)/cmake --build build/native -- --quiet
	touch $@

proto: setup ## Generate lazyneuron/protocol from proto/.
	$(BIN)/python proto/generate.py

clean: ## Remove what was built; keeps .venv and the demo's weights.
	rm -rf build dist engine/lib .mypy_cache .ruff_cache .pytest_cache
