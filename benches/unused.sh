#!/usr/bin/env bash
# Shows that the patched QEMU, when nothing of the patches is used, generates the same code as the stock one and runs as fast.
# Both are built from the same source with the same configuration. The code is compared as optimized TCG operations of
# U-Boot's first blocks, with a clock that counts instructions, so that both runs are the same run; addresses of QEMU's own
# memory, which differ from run to run, are left out. Then both boot Debian's armhf kernel in turn.
#
#   benches/unused.sh [ROUNDS]      default 5; needs `make qemu`; builds the stock QEMU once (some minutes); result in
#                                   benches/results/unused.txt
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-5}
blocks=5000
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
kernel=$cache/firmware/vmlinuz-armhf
uboot=$cache/firmware/u-boot-qemu/usr/lib/u-boot/qemu_arm/u-boot.bin
patched=${KTRACER_QEMU:-$cache/qemu/current}
stock=${KTRACER_STOCK_QEMU:-$cache/qemu/stock}
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'unused.sh: error: %s\n' "$*" >&2; exit 1; }
[ -e "$kernel" ] && [ -e "$uboot" ] || fail "the firmware is missing: run scripts/setup.sh test"
[ -x "$patched/bin/qemu-system-arm" ] || fail "the patched QEMU is missing: run make qemu"
[ -x "$stock/bin/qemu-system-arm" ] || qemu-patches/build.sh --no-patches --targets arm-softmmu --prefix "$stock"

# The first blocks' operations, one a line.
operations() {
  # It ends by the pipe, once enough was read.
  { timeout 60 "$1/bin/qemu-system-arm" -M virt -m 64 -display none -serial null -nic none -bios "$uboot" \
      -icount shift=0,sleep=off -d op_opt -D /dev/stdout 2>/dev/null || true; } |
    awk -v blocks="$blocks" '/^OP after/ {if (++seen > blocks) exit} {print}' |
    sed -E 's/0x(7[0-9a-f]{11}|5[0-9a-f]{11})/HOST/g'
}

# Wall-clock seconds of a boot to its panic.
boot() {
  local start end
  start=$(date +%s.%N)
  "$1/bin/qemu-system-arm" -M virt -m 512 -display none -serial "file:$work/console" -no-reboot -nic none \
    -kernel "$kernel" -append "console=ttyAMA0 panic=-1"
  end=$(date +%s.%N)
  grep -q "Kernel panic" "$work/console" || fail "the boot did not reach its panic"
  python3 -c "print(f'{$end - $start:.2f}')"
}

operations "$stock" >"$work/stock"
operations "$patched" >"$work/patched"
[ "$(grep -c '^OP after' "$work/stock")" = "$blocks" ] || fail "only $(grep -c '^OP after' "$work/stock") blocks were translated"
if cmp -s "$work/stock" "$work/patched"; then
  same="the same $(grep -vc -e '^OP' -e '^ ----' -e '^$' "$work/stock") operations in the first $blocks blocks of U-Boot"
else
  diff "$work/stock" "$work/patched" | head -n 20 >&2 || true
  fail "the patched QEMU generates other code"
fi
old=() new=()
for round in $(seq "$rounds"); do
  old+=("$(boot "$stock")")
  new+=("$(boot "$patched")")
  printf 'round %s: stock %s s, patched %s s\n' "$round" "${old[-1]}" "${new[-1]}" >&2
done
mkdir -p benches/results
{
  printf '%s, %s\n' "$(date -u +%F)" "$("$patched/bin/qemu-system-arm" --version | head -n 1)"
  printf '%s\n' "$same"
  python3 - "${old[*]}" "${new[*]}" <<'PYTHON'
import statistics, sys
old, new = ([float(x) for x in a.split()] for a in sys.argv[1:3])
print(f"kernel boot, stock: {old} s, patched, unused: {new} s")
print(f"ratio of medians {statistics.median(new) / statistics.median(old):.3f}, of the best {min(new) / min(old):.3f}")
PYTHON
} | tee benches/results/unused.txt
