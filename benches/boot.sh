#!/usr/bin/env bash
# Measures what the README states, in one sitting: how much slower a recorded boot of Debian's armhf kernel is than the same
# QEMU without the recorder, how large the trace is, and how fast it is verified. All figures are ratios or come from the
# same minutes; the machine should be idle.
#
#   benches/boot.sh [ROUNDS]        default 3; one round takes about two minutes; the result goes to benches/results/boot.txt
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
programs=${CARGO_TARGET_DIR:-target}/release
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
kernel=$cache/firmware/vmlinuz-armhf
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'boot.sh: error: %s\n' "$*" >&2; exit 1; }
[ -e "$kernel" ] || fail "the kernel is missing: run scripts/setup.sh test"
[ -x "$programs/ktracer" ] && [ -e "$programs/libktracer.so" ] || fail "not built yet: run make build"
command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3"

boot=(qemu-system-arm -M virt -m 512 -display none -serial "file:$work/console" -no-reboot -nic none
      -kernel "$kernel" -append "console=ttyAMA0 panic=-1")

# Prints wall-clock seconds of a command.
seconds() {
  local start end
  start=$(date +%s.%N)
  "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "$* failed"; }
  end=$(date +%s.%N)
  python3 -c "print(f'{$end - $start:.2f}')"
}

plain=() traced=()
for round in $(seq "$rounds"); do
  plain+=("$(seconds "${boot[@]}")")
  grep -q "Kernel panic" "$work/console" || fail "the boot did not reach its panic"
  traced+=("$(seconds "$programs/ktracer" record --force -o "$work/trace" -- "${boot[@]}")")
  printf 'round %s: untraced %s s, traced %s s\n' "$round" "${plain[-1]}" "${traced[-1]}" >&2
done
"$programs/ktracer" info --json "$work/trace" >"$work/info"
"$programs/ktracer" verify --json -j 1 "$work/trace" >"$work/verify1" || fail "the trace is not proved"
"$programs/ktracer" verify --json -j "$(nproc)" "$work/trace" >"$work/verify" || fail "the trace is not proved"

mkdir -p benches/results
python3 - "$work" "${plain[*]}" "${traced[*]}" <<'PYTHON' | tee benches/results/boot.txt
import json, os, platform, statistics, subprocess, sys, datetime
work, plain, traced = sys.argv[1], *[[float(x) for x in a.split()] for a in sys.argv[2:4]]
load = lambda name: json.load(open(f"{work}/{name}"))
info, one, all_cores = load("info"), load("verify1"), load("verify")
cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
qemu = subprocess.run(["qemu-system-arm", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
print(f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, {qemu}")
print(f"Debian armhf kernel boot to its panic: {info['instructions']:,} instructions, {info['blocks']:,} blocks")
print(f"untraced: {plain} s, median {statistics.median(plain):.2f} s")
print(f"recorded: {traced} s, median {statistics.median(traced):.2f} s")
print(f"slow-down: {statistics.median(traced) / statistics.median(plain):.2f}x (best of each: {min(traced) / min(plain):.2f}x)")
print(f"trace: {info['bytes']:,} bytes, {info['bytes_per_instruction']:.4f} bytes per instruction with indexes")
print(f"verify: {one['instructions_per_second'] / 1e6:.0f} M instructions/s on one core, "
      f"{all_cores['instructions_per_second'] / 1e6:.0f} M/s on {os.cpu_count()}; all proved")
PYTHON
