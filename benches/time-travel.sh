#!/usr/bin/env bash
# Measures, in one sitting, how long it takes to go anywhere in the recording of a boot of Debian's armhf kernel, 3.3 G
# instructions: open (from cold and cached files), seek, step, reverse step, reverse-continue near and far, watchpoints, memory; in the
# library, and through ktreplay over TCP with the packets that gdb sends; and the memory that takes.
#
#   benches/time-travel.sh [--qemu-replay] [--samples N] [--interrupts]
#
#   --qemu-replay   beside it the same of QEMU's own record and replay of the same boot, N (3) times each. It executes all from its
#                   snapshot for each step back: some 10 s on an idle machine, so that this takes about 5 minutes
#   --interrupts    how soon Ctrl-C ends everything that takes long, 20 times each, also with indexes missing or damaged, and in a
#                   recording of a MIPS kernel's boot: some 15 minutes
#
# It needs `make qemu`, `make build` and an idle machine (and qemu-img for --qemu-replay). The result is in
# benches/results/time-travel.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=${CARGO_TARGET_DIR:-target}/release
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
kernel=$cache/firmware/vmlinuz-armhf
mips_kernel=$cache/firmware/vmlinuz-mipsel
qemu=${KTRACER_QEMU:-$cache/qemu/current}/bin/qemu-system-arm
mips_qemu=${KTRACER_QEMU:-$cache/qemu/current}/bin/qemu-system-mipsel
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'time-travel.sh: error: %s\n' "$*" >&2; exit 1; }
say() { printf 'time-travel.sh: %s\n' "$*" >&2; }

qemu_replay= interrupts= samples=3
while [ $# -gt 0 ]; do
    case $1 in
        --qemu-replay) qemu_replay=1 ;;
        --interrupts) interrupts=1 ;;
        --samples) samples=${2:?--samples wants a number}; shift ;;
        *) fail "unknown option $1" ;;
    esac
    shift
done
[ -e "$kernel" ] || fail "the kernel is missing: run scripts/setup.sh test"
[ -x "$qemu" ] || fail "the patched QEMU is missing: run make qemu"
for program in ktracer ktreplay time_travel time_travel_server qemu_replay interrupts; do
    [ -x "$programs/$program" ] || fail "$program is not built yet: run make build"
done
[ -z "$qemu_replay" ] || command -v qemu-img >/dev/null || fail "qemu-img is missing: install the Debian package qemu-utils"

say "recording"
arguments=(-M virt -m 512 -display none -serial "file:$work/console" -no-reboot -nic none
           -kernel "$kernel" -append "console=ttyAMA0 panic=-1")
"$programs/ktracer" record -o "$work/trace" -- "$qemu" "${arguments[@]}" 2>"$work/log" || fail "$(cat "$work/log")"

say "the library"
"$programs/time_travel" "$work/trace" >"$work/measured"
# Words that it has found written near and far from a position, and the fourth instruction of QEMU's boot stub, which runs once.
read -r -a near < <(python3 - "$work/measured" <<'PYTHON'
import json, sys
found = next(row for row in map(json.loads, open(sys.argv[1])) if "near_watches" in row)
print(*(f"--near-watch {position}:{word:#x}" for position, word in found["near_watches"]))
PYTHON
) || true
read -r -a far < <(python3 - "$work/measured" <<'PYTHON'
import json, sys
found = next(row for row in map(json.loads, open(sys.argv[1])) if "far_watch" in row)
print("--far-breakpoint 0x4000000c", f"--far-watch {found['far_watch']:#x}" if found["far_watch"] is not None else "")
PYTHON
) || true
say "ktreplay"
"$programs/time_travel_server" "$work/trace" "${near[@]}" "${far[@]}" >>"$work/measured"
if [ -n "$qemu_replay" ]; then
    say "QEMU's record and replay: about $((80 * samples + 60)) s"
    mkdir "$work/qemu"
    "$programs/qemu_replay" "$qemu" "$kernel" "$work/qemu" --samples "$samples" "${far[@]}" >>"$work/measured"
fi
if [ -n "$interrupts" ]; then
    mips=()
    if [ -x "$mips_qemu" ] && [ -e "$mips_kernel" ]; then
        say "recording MIPS"
        "$programs/ktracer" record -o "$work/mips" -- "$mips_qemu" -M malta -m 256 -display none -vga none -no-reboot -nic none \
            -serial "file:$work/console-mips" -kernel "$mips_kernel" -append "console=ttyS0 panic=-1" 2>"$work/log" ||
            fail "$(cat "$work/log")"
        mips=(--mips "$work/mips")
    fi
    say "Ctrl-C"
    "$programs/interrupts" "$work/trace" "${mips[@]}" >>"$work/measured"
fi

mkdir -p benches/results
python3 - "$work" <<'PYTHON' | tee benches/results/time-travel.txt
import datetime, json, os, sys
work = sys.argv[1]
cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
print(f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
print("cpu: processor time of all threads of the process that measures, on average, where that is the one that works")
def number(value):
    return "" if value is None else f"{value:.3f}"
for line in open(f"{work}/measured"):
    row = json.loads(line)
    if "heading" in row:
        print(f"\n{row['heading']}\n{'milliseconds':<86} {'median':>9} {'p99':>9} {'worst':>9} {'cpu':>9} {'count':>6}")
    elif "what" in row:
        numbers = (row[key] for key in ("median_ms", "p99_ms", "worst_ms", "mean_processor_ms"))
        note = f"  ({row['note']})" if row.get("note") else ""
        print(f"{row['what']:<86} " + " ".join(f"{number(value):>9}" for value in numbers) + f" {row['count']:6}{note}")
    elif "near_watches" not in row:
        print(row)
PYTHON
