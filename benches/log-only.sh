#!/usr/bin/env bash
# Measures what of the time of recording is the vCPU's alone: the patched QEMU boots Debian's armhf kernel, 3.3 G instructions, logs all
# blocks and accesses as it does for ktracer, and nobody reads the log; in turn with the same QEMU not logging.
#
#   benches/log-only.sh [ROUNDS]     default 3; needs `make qemu`, a C compiler and an idle machine; result in
#                                    benches/results/log-only.txt
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
kernel=$cache/firmware/vmlinuz-armhf
patched=${KTRACER_QEMU:-$cache/qemu/current}
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'log-only.sh: error: %s\n' "$*" >&2; exit 1; }
[ -e "$kernel" ] || fail "the kernel is missing: run scripts/setup.sh test"
[ -x "$patched/bin/qemu-system-arm" ] || fail "the patched QEMU is missing: run make qemu"
[ -e "$patched/include/qemu-plugin.h" ] || fail "$patched/include/qemu-plugin.h is missing: run make qemu"
command -v cc >/dev/null || fail "a C compiler is missing: install the Debian package gcc"
cc -O2 -Wall -fPIC -shared -I "$patched/include" $(pkg-config --cflags glib-2.0) -o "$work/log-only.so" benches/log-only.c

# Wall-clock seconds of a boot to its panic.
boot() {
  local start end
  start=$(date +%s.%N)
  "$patched/bin/qemu-system-arm" -M virt -m 512 -display none -serial "file:$work/console" -no-reboot -nic none \
    -kernel "$kernel" -append "console=ttyAMA0 panic=-1" "$@" 2>"$work/log" || fail "$(cat "$work/log")"
  end=$(date +%s.%N)
  python3 -c "print(f'{$end - $start:.2f}')"
}

mkdir -p benches/results
{
  echo "$(date +%F), $(awk -F': ' '/^model name/ {print $2; exit}' /proc/cpuinfo), $(nproc) cores, $("$patched/bin/qemu-system-arm" --version | head -1)"
  for _ in $(seq "$rounds"); do
    plain=$(boot)
    logged=$(boot -plugin "$work/log-only.so")
    python3 -c "print(f'not logging $plain s, logging $logged s, ratio {$logged / $plain:.2f}; $(cat "$work/log")')"
  done
} | tee benches/results/log-only.txt
