#!/usr/bin/env bash
# Makes the sample traces tests/samples/mips-guest and tests/samples/mipsel-guest again: six rounds of tests/guests/mips.c, from
# reset to the end, in either byte order. Needed when the trace format or the recorder changes. Needs what scripts/setup.sh test
# installs, the patched QEMU (make qemu), and cargo build --release --workspace.
#
#   scripts/make-mips-samples.sh
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(realpath "${CARGO_TARGET_DIR:-target}/release")
build=$(realpath tests/guests/build-mips.sh)
samples=$(realpath -m tests/samples)

qemu=${KTRACER_QEMU:-${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}/qemu/current}/bin

fail() { printf 'make-mips-samples: error: %s\n' "$*" >&2; exit 1; }
[ -x "$programs/ktracer" ] && [ -f "$programs/libktracer.so" ] || fail "not built yet: run cargo build --release --workspace"
[ -x "$qemu/qemu-system-mips" ] || fail "$qemu/qemu-system-mips is missing: run make qemu"

# The trace says how QEMU was started, and the sample is for everyone: a relative path, in a directory of its own, and
# a program that is found in PATH.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for architecture in mips mipsel; do
  (cd "$scratch" && "$build" "$architecture" guest && PATH=$qemu:$PATH "$programs/ktracer" record -o "$architecture" -- \
    "qemu-system-$architecture" -M malta -m 32 -vga none -nic none -display none -serial null -no-reboot \
    -kernel guest -append 6)
  "$programs/ktracer" verify "$scratch/$architecture"
  ! grep -F -e "$HOME" -e "$scratch" "$scratch/$architecture/trace.json" || fail "the trace names a directory of this machine"
  mkdir -p "$samples/$architecture-guest"
  for file in trace.json trace.kt memory.kt; do
    install -m 644 "$scratch/$architecture/$file" "$samples/$architecture-guest/$file"
  done
  du -h --apparent-size "$samples/$architecture-guest"
done
