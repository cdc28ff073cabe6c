# Everything a person or CI does here. `make` alone lists it.

export PATH := $(PATH):$(HOME)/.cargo/bin
DEV := deploy/dev
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help run test setup setup-test tools model model-whisper test-whisper build check check-deploy fmt clippy bench bench-inbox bench-fanout bench-socketio bench-rtmp bench-pages screenshots chaos soak services fuzz clean remove-data announce env up down

help: ## List the targets
	@awk -F ': .*## ' '/^[a-z-]+: .*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  `DEMO=0 make run` plays no recording. Settings, in the environment or in .env: HTTP_PORT, HTTPS_PORT, HTTP_ADDR, PORT, HANDSHAKES_PER_SECOND, …'

# Its last line is one command and no shell, so that a signal make passes on reaches the launcher.
run: announce setup model $(if $(WHISPER),model-whisper) build ## Run everything on this machine and caption a recording, until Ctrl-C (WHISPER=1: other languages too)
	@$(DEV)/parley-up

announce:
	@echo 'make run: 1. system packages that are missing  2. the speech model (85 MB, once)'
	@echo '          3. a release build (several minutes the first time)  4. Postgres, Redis, nginx, the services'

test: setup-test model tools ## Run every test (or TEST_ARGS='-p audio') against private Postgres, Redis and nginx
	@$(DEV)/parley-up --stores $(DEV)/run-tests $(TEST_ARGS)

setup: ## Install the system packages that `make run` needs, where they are missing
	@$(DEV)/install-packages run

setup-test:
	@$(DEV)/install-packages test
	@$(MAKE) --no-print-directory peers

# Clients of others are programs for Node and Python: the tests have some, and so do the measurements. What they need is
# installed anew when their list of it changes; it belongs to this checkout, not to the machine.
NODE := crates/testkit/node
PYTHON := crates/testkit/python
.PHONY: peers
peers: $(NODE)/node_modules/.installed $(PYTHON)/packages/.installed
	@:

$(NODE)/node_modules/.installed: $(NODE)/package.json
	@npm install --prefix $(NODE) --no-package-lock --no-audit --no-fund --silent
	@touch $@

$(PYTHON)/packages/.installed: $(PYTHON)/requirements.txt
	@rm -rf $(@D)
	@python3 -m pip install --target $(@D) --requirement $< --quiet --disable-pip-version-check --root-user-action ignore
	@touch $@

tools:
	@$(DEV)/fetch-model tools

model: setup ## Fetch and verify the speech model, its runtime and the recording
	@$(DEV)/fetch-model

model-whisper: setup ## Fetch and verify Whisper base, for languages other than English (145 MB, or WHISPER_MODEL_DIR)
	@$(DEV)/fetch-model whisper

# The first build of this engine compiles CTranslate2; cargo keeps it.
test-whisper: setup-test model model-whisper tools ## Build the whisper engine and test it, alone and in the whole system (PARLEY_SPEECH_DIR: recordings of other languages)
	@echo 'make test-whisper: the first time compiles CTranslate2, 240 files of C++ (15 minutes on two cores)'
	@# The whole workspace, so that what `make test` has compiled is used.
	@$(DEV)/parley-up --stores cargo test --locked --workspace --features speech/whisper,e2e/whisper --lib --test whisper -- --nocapture

build: setup ## Build the services and the command line in release
ifneq ($(WHISPER),)
	@echo 'build: with Whisper; the first time compiles CTranslate2, 240 files of C++ (15 minutes on two cores)'
endif
	cargo build --release --locked $(FEATURES) $$($(DEV)/parley-up --packages | sed 's/[^ ][^ ]*/-p &/g')

check: setup ## Check format and lints, as CI does
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

check-deploy: setup-test ## Check compose, manifests, dashboards and alerts, as the tests do
	@for check in $(DEV)/check-*; do $$check || exit 1; done

fmt: ## Format the code
	cargo fmt --all

clippy: setup ## Check lints alone
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Whisper is C++ that takes a quarter of an hour to compile, once.
FEATURES = $(if $(WHISPER),--features transcription-worker/whisper)

LOADGEN = $(or $(CARGO_TARGET_DIR),target)/release/loadgen

bench: setup model build ## Measure 1, 4 and 8 live streams (or BENCH_ARGS='--streams 2 --seconds 60'), then every other bench
	cargo build --release --locked -p loadgen
	@$(DEV)/parley-up --with $(LOADGEN) live $(BENCH_ARGS)
	@$(MAKE) --no-print-directory bench-fanout
	@$(MAKE) --no-print-directory bench-socketio
	@$(MAKE) --no-print-directory bench-rtmp
	@$(MAKE) --no-print-directory bench-inbox
	@$(MAKE) --no-print-directory bench-pages

bench-fanout: setup-test model build ## Measure one event to 5,000 followers (or FANOUT_ARGS='--followers 1000')
	cargo build --release --locked -p loadgen
	@HANDSHAKES_PER_SECOND=100000 $(DEV)/parley-up --with $(LOADGEN) fanout $(FANOUT_ARGS)

bench-socketio: setup-test model build ## The same in Socket.IO, beside npm's socket.io 4 (or FANOUT_ARGS='--followers 1000')
	cargo build --release --locked -p loadgen
	@HANDSHAKES_PER_SECOND=100000 $(DEV)/parley-up --with $(LOADGEN) socketio $(FANOUT_ARGS)

bench-rtmp: setup-test model build ## Measure 50 encoders that push at once (or RTMP_ARGS='--streams 10')
	cargo build --release --locked -p loadgen
	@RTMP_ADDRESS_CONNECTIONS_MAX=1000 $(DEV)/parley-up --with $(LOADGEN) rtmp $(RTMP_ARGS)

bench-inbox: setup ## Measure an inbox of 1,000,000 notifications
	@$(DEV)/parley-up --stores cargo bench --locked -p notification-hub --bench inbox

bench-pages: setup-test model tools build ## Measure the pages in Chromium: frames a second, and from speech in an encoder to the overlay
	@$(DEV)/parley-up --chaos node $(NODE)/measure.js pace
	@$(DEV)/parley-up --chaos node $(NODE)/measure.js overlay

screenshots: setup-test model tools build ## Make docs/screenshots anew, of the pages as they are
	@$(DEV)/parley-up --chaos node $(NODE)/screenshots.js docs/screenshots

chaos: setup model ## Kill every part during live streams, cut networks, offer too much, and compare every word (10 minutes)
	@$(DEV)/chaos release $(foreach it,kills rolling-restart disconnects overload,crates/loadgen/scenarios/$(it).toml)

soak: setup-test model build ## One hour of speech, and one of pages: is memory flat, is the delay the same at the end?
	@$(DEV)/chaos release crates/loadgen/scenarios/soak.toml
	@$(DEV)/parley-up --chaos node $(NODE)/measure.js soak $(SOAK_MINUTES)

services: setup ## Run Postgres and Redis for single tests; prints what to export
	@$(DEV)/parley-up --stores

fuzz: setup ## Fuzz every parser, each for FUZZ_SECONDS (60)
	@$(DEV)/fuzz $(FUZZ_SECONDS)

env: ## Make .env with new secrets; values that are there stay
	@deploy/docker/make-env

up: ## Build and start everything in containers (WHISPER=1: other languages too; UP_ARGS='--scale transcription-worker=2')
	@WHISPER=$(WHISPER) deploy/docker/compose up $(UP_ARGS)

down: ## Stop the containers and remove them; what the database holds stays, without it with DATA=no
	@deploy/docker/compose down $(if $(filter no,$(DATA)),--volumes)

clean: ## Remove what was built
	cargo clean

remove-data: ## Remove .parley: the database, secrets, logs and the model
	@$(DEV)/parley-up --remove-data
