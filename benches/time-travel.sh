#!/usr/bin/env bash
# Measures, in one sitting, how long it takes to go anywhere in the recording of a boot of Debian's armhf kernel, 3.3 G
# instructions: open, seek, step, reverse step, reverse-continue near and far, watchpoints, memory, and the memory that takes.
#
#   benches/time-travel.sh          needs `make qemu`, `make build` and an idle machine; result in benches/results/time-travel.txt
set -euo pipefail
cd "$(dirname "$0")/.."

programs=${CARGO_TARGET_DIR:-target}/release
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
kernel=$cache/firmware/vmlinuz-armhf
qemu=${KTRACER_QEMU:-$cache/qemu/current}/bin/qemu-system-arm
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'time-travel.sh: error: %s\n' "$*" >&2; exit 1; }
[ -e "$kernel" ] || fail "the kernel is missing: run scripts/setup.sh test"
[ -x "$qemu" ] || fail "the patched QEMU is missing: run make qemu"
[ -x "$programs/ktracer" ] && [ -x "$programs/time_travel" ] || fail "not built yet: run make build"

arguments=(-M virt -m 512 -display none -serial "file:$work/console" -no-reboot -nic none
           -kernel "$kernel" -append "console=ttyAMA0 panic=-1")
"$programs/ktracer" record -o "$work/trace" -- "$qemu" "${arguments[@]}" 2>"$work/log" || fail "$(cat "$work/log")"
# From a cold cache of pages, if we may drop it.
sync; echo 1 2>/dev/null >/proc/sys/vm/drop_caches || true
"$programs/time_travel" "$work/trace" >"$work/measured"

mkdir -p benches/results
python3 - "$work" <<'PYTHON' | tee benches/results/time-travel.txt
import datetime, json, os, sys
work = sys.argv[1]
cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
print(f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
print(f"{'milliseconds':<72} {'median':>9} {'p99':>9} {'worst':>9} {'cpu':>9} {'count':>6}")
for line in open(f"{work}/measured"):
    row = json.loads(line)
    if "what" not in row:
        print(row)
    elif row["count"]:
        numbers = (row[key] for key in ("median_ms", "p99_ms", "worst_ms", "mean_processor_ms"))
        print(f"{row['what']:<72} " + " ".join(f"{number:9.3f}" for number in numbers) + f" {row['count']:6}")
PYTHON
