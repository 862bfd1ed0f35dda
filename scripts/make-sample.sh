#!/usr/bin/env bash
# Makes the sample trace in tests/samples/arm-u-boot again: the first instructions of U-Boot from reset. Needed when the
# trace format or the recorder changes. Needs what scripts/setup.sh demo installs, and cargo build --release --workspace.
#
#   scripts/make-sample.sh [INSTRUCTIONS]
set -euo pipefail
cd "$(dirname "$0")/.."

instructions=${1:-4M}
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
uboot=$cache/firmware/u-boot-qemu/usr/lib/u-boot/qemu_arm/u-boot.bin
programs=$(realpath "${CARGO_TARGET_DIR:-target}/release")
sample=$(realpath -m tests/samples/arm-u-boot)

fail() { printf 'make-sample: error: %s\n' "$*" >&2; exit 1; }
[ -f "$uboot" ] || fail "U-Boot is missing: run scripts/setup.sh demo"
[ -x "$programs/ktracer" ] && [ -f "$programs/libktracer.so" ] || fail "not built yet: run cargo build --release --workspace"

# The trace says how QEMU was started, and the sample is for everyone: a relative path, in a directory of its own.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp "$uboot" "$scratch/u-boot.bin"
(cd "$scratch" && "$programs/ktracer" record -o trace --stop-after "$instructions" -- \
  qemu-system-arm -M virt -m 64 -nic none -display none -serial null -bios u-boot.bin)
"$programs/ktracer" verify "$scratch/trace"
! grep -F -e "$HOME" -e "$scratch" "$scratch/trace/trace.json" || fail "the trace names a directory of this machine"
mkdir -p "$sample"
for file in trace.json trace.kt memory.kt; do
  install -m 644 "$scratch/trace/$file" "$sample/$file"
done
du -h --apparent-size "$sample"
