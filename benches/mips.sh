#!/usr/bin/env bash
# Measures MIPS, in one sitting: how much longer the boot of Debian's malta kernel takes in the patched QEMU when it is
# recorded, the size of the trace, and how fast it is proved.
#
#   benches/mips.sh KERNEL [ROUNDS]    default 3 rounds; KERNEL is vmlinuz-*-4kc-malta of debian-installer-12-netboot-mipsel;
#                                      needs `make qemu` and an idle machine; result in benches/results/mips.txt
set -euo pipefail
kernel=$(realpath -- "${1:?give the kernel: --help is in the head of this script}")
rounds=${2:-3}
cd "$(dirname "$0")/.."

programs=${CARGO_TARGET_DIR:-target}/release
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
qemu=${KTRACER_QEMU:-$cache/qemu/current}/bin/qemu-system-mipsel
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'mips.sh: error: %s\n' "$*" >&2; exit 1; }
[ -x "$qemu" ] || fail "the patched QEMU is missing: run make qemu"
[ -x "$programs/ktracer" ] && [ -e "$programs/libktracer.so" ] || fail "not built yet: run make build"

arguments=(-M malta -m 256 -display none -vga none -serial "file:$work/console" -no-reboot -nic none
           -kernel "$kernel" -append "console=ttyS0 panic=-1")
seconds() {
  local start=$EPOCHREALTIME
  "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "$1 failed"; }
  awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f\n", b - a }'
}

mkdir -p benches/results
{
  printf '%s, %s, %s cores\n' "$("$qemu" --version | head -n 1)" "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)"
  for ((round = 1; round <= rounds; round++)); do
    plain=$(seconds "$qemu" "${arguments[@]}")
    rm -rf "$work/trace"
    traced=$(seconds "$programs/ktracer" record -o "$work/trace" --patched -- qemu-system-mipsel "${arguments[@]}")
    awk -v p="$plain" -v t="$traced" 'BEGIN { printf "not recording %s s, recording %s s, ratio %.2f\n", p, t, t / p }'
  done
  "$programs/ktracer" info "$work/trace" | grep -E '^(instructions|blocks|size|opaque)'
  "$programs/ktracer" verify -j 1 "$work/trace" | sed 's/^/verify -j 1: /'
  "$programs/ktracer" verify "$work/trace" | sed 's/^/verify: /'
} | tee benches/results/mips.txt.new
mv benches/results/mips.txt.new benches/results/mips.txt
