# berth: `make build` leaves bin/berth, one static file that carries its other programs inside itself.

GO       ?= go
VERSION  ?= 0.1.0-dev
ARCH     ?= $(shell $(GO) env GOARCH)
OUT      ?= bin
PACKED    = internal/program/embedded
# $(call build,PROGRAM,MORE FLAGS OF THE LINKER)
build     = CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) $(GO) build -trimpath -ldflags '-s -w -X berth/internal/cli.Version=$(VERSION)$2' -o $(OUT)/$1 ./cmd/$1

# As internal/program unpacks it: one block, CRC32.
XZ        = xz -9ecT1 --check=crc32

.PHONY: build run test man reference compat corpus attacks crash soak cycles fuzz debian shop projects powercut powercut-vm bench bench-uplink test-vm test-arm64 clean

# Two builds must not fill the same folder of packed programs at once.
build:
	@mkdir -p $(OUT) .cache
	@flock .cache/build.lock $(MAKE) --no-print-directory all-programs

.PHONY: all-programs
all-programs:
	rm -f $(PACKED)/*.gz $(PACKED)/*.xz
	$(call build,berth-box)
	$(call build,berth-init)
	$(call build,berth-uplink)
	$(XZ) $(OUT)/berth-init > $(PACKED)/berth-init.xz
	$(XZ) $(OUT)/berth-box > $(PACKED)/berth-box.xz
	$(call build,berth-full, -E berth/internal/entry.program)
	rm $(PACKED)/berth-box.xz
	gzip -9nc $(OUT)/berth-full > $(PACKED)/berth-full.gz
	$(XZ) $(OUT)/berth-uplink > $(PACKED)/berth-uplink.xz
	$(call build,berth, -E berth/internal/entry.command)
	rm -f $(PACKED)/*.gz $(PACKED)/*.xz $(OUT)/berth-full $(OUT)/berth-box $(OUT)/berth-init $(OUT)/berth-uplink

# A container from the image inside the binary says where it runs; on a terminal, a shell follows.
run: build
	@$(OUT)/berth run --rm --network none box where
	@if [ -t 0 ]; then $(OUT)/berth run --rm -it --network none box; fi

test:
	@./test/run

# What of docker's command line exists, and what of it a test has seen; DOCKER_CLI is the list.
DOCKER_CLI ?= ../shared/compat/docker-cli.txt
compat:
	CGO_ENABLED=0 $(GO) run ./test/compat -list $(DOCKER_CLI) $(COMPAT)

# Command lines of docker's users, with Debian's docker and with berth; what differs, and is not meant to. As root; some minutes.
# PARITY='-only TEXT' takes the scenarios whose file or title contains it, '-answers FILE' keeps docker's answers.
.PHONY: parity
parity: build
	@mkdir -p .cache
	CGO_ENABLED=0 $(GO) build -o .cache/parity ./test/parity
	.cache/parity -berth $(OUT)/berth $(PARITY)

# berth(1) and a page for each command.
man:
	CGO_ENABLED=0 $(GO) run ./docs/manual -man $(OUT)/man/man1

# docs/cli.md, which a test compares with the table of commands.
reference:
	CGO_ENABLED=0 $(GO) run ./docs/manual -reference docs/cli.md

clean:
	rm -rf bin .cache

# berth beside its peers, in alternation in one run; on a quiet machine, as root.
bench: build
	CGO_ENABLED=0 $(GO) build -o .cache/bench ./test/bench
	.cache/bench -berth $(OUT)/berth $(BENCH)

# berth's uplink beside slirp4netns and pasta, in alternation in one run; on a quiet machine, as root.
bench-uplink:
	@mkdir -p $(OUT) .cache
	$(call build,berth-uplink)
	CGO_ENABLED=0 $(GO) build -o .cache/bench-uplink ./test/bench/uplink
	.cache/bench-uplink -program $(OUT)/berth-uplink $(BENCH)

# Take each defence away and see its test fail (docs/attacks.md); as root. BERTH_SHORT=1 takes one defence of each class.
attacks:
	CGO_ENABLED=0 $(GO) build -o .cache/attacks ./test/attacks
	.cache/attacks

# Kill commands, monitors, first processes and uplinks after each of their system calls, as root and as a user; BERTH_SHORT=1 takes about
# thirty of each.
crash: build
	$(GO) run ./test/crash -berth $(OUT)/berth

# A thousand containers at once, and 64 clients beside them; containers on networks, thousands of times and many at once, as root and as a user;
# BERTH_SHORT=1 starts some dozens.
soak: build
	$(GO) run ./test/soak -berth $(OUT)/berth

# Ten minutes of fuzzing for each of what reads and compiles a config.json, from the corpus that is kept; FUZZ is how many seconds.
fuzz:
	./test/fuzz/run $(FUZZ)

# Ten thousand containers of the OCI runtime in one process, and what is left of them there: no descriptor, no thread; as root. BERTH_SHORT=1
# takes a hundred.
cycles:
	CGO_ENABLED=0 $(GO) build -o .cache/cycles ./test/cycles
	.cache/cycles

# A whole Debian, made by mmdebstrap, through a registry and into a terminal; BERTH_DEBIAN_TAR names a ready root file system.
# With BERTH_SHORT=1 none is made.
debian: build
	@mkdir -p .cache
	@[ -n "$$BERTH_DEBIAN_TAR$$BERTH_SHORT" ] || [ -e .cache/debian.tar ] || ./test/debian/rootfs .cache/debian.tar python3-minimal,gcc,libc6-dev
	BERTH_BINARY=$(abspath $(OUT)/berth) CGO_ENABLED=0 $(GO) test -count=1 ./internal/cli -v -run 'TestScript/scripts/debian$$'

# A small shop of six services, made by mmdebstrap, on a network; as root, and as SHOP_USER, if that names somebody who has
# subordinate ids and may read this checkout; or as whoever calls.
shop: build
	./test/shop/run $(abspath $(OUT)/berth) $(SHOP_USER)

# Five projects, as those of Go, Python, Node, C and Debian packages are written, built on Debian packages; from the languages' registries.
projects: build
	./test/projects/run $(OUT)/berth

# Dockerfiles built by berth and by the BuildKit of Debian's docker.io, and compared; as root.
corpus: build
	test/build/run $(OUT)/berth

# docs/dockerfile.md: which file of the corpus shows which sentence of the language.
.PHONY: corpus-table corpus-alone
corpus-table:
	CGO_ENABLED=0 $(GO) run ./test/build -corpus test/build/corpus -table docs/dockerfile.md

# The corpus built by berth alone, as whoever calls.
corpus-alone: build
	test/build/run $(OUT)/berth -alone

# Cut the power of an ext4, an xfs and a btrfs under a working berth; 2800 cuts, a tenth with BERTH_SHORT=1.
powercut: build
	CGO_ENABLED=0 $(GO) build -o .cache/powercut ./test/powercut
	for fs in ext4 xfs btrfs; do .cache/powercut -berth $(OUT)/berth -filesystem $$fs || exit 1; done

# Cut the power of a virtual machine under a working berth, ten times.
powercut-vm:
	@./test/powercut-vm

# The tests on a host with systemd, cgroup v2 and AppArmor, in a virtual machine; BERTH_SHORT=1 takes less than five minutes.
test-vm:
	@./test/vm

# berth on arm64, emulated: a kernel of Debian's in QEMU; BERTH_SHORT=1 takes less than three minutes.
test-arm64:
	@./test/arm64/run
