#!/usr/bin/env bash
# Measures the fast path, in one sitting: how much longer the boot of Debian's armhf kernel takes in the patched QEMU when it is
# recorded, the processor time of the threads, and the size of the trace beside that of the portable path's.
#
#   benches/fast.sh [ROUNDS]        default 3; needs `make qemu` and an idle machine; result in benches/results/fast.txt
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
programs=${CARGO_TARGET_DIR:-target}/release
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
kernel=$cache/firmware/vmlinuz-armhf
qemu=${KTRACER_QEMU:-$cache/qemu/current}/bin/qemu-system-arm
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() { printf 'fast.sh: error: %s\n' "$*" >&2; exit 1; }
[ -e "$kernel" ] || fail "the kernel is missing: run scripts/setup.sh test"
[ -x "$qemu" ] || fail "the patched QEMU is missing: run make qemu"
[ -x "$programs/ktracer" ] && [ -e "$programs/libktracer.so" ] || fail "not built yet: run make build"
command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3"

arguments=(-M virt -m 512 -display none -serial "file:$work/console" -no-reboot -nic none
           -kernel "$kernel" -append "console=ttyAMA0 panic=-1")

# Runs a command, and prints its wall-clock seconds and the processor seconds of it and its children: user, system.
measure() {
  python3 - "$work/out" "$@" <<'PYTHON'
import os, subprocess, sys, time
before, start = os.times(), time.monotonic()
with open(sys.argv[1], "wb") as out:
    status = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode
after = os.times()
if status:
    sys.exit(open(sys.argv[1]).read() + f"\n{sys.argv[2]} ended with {status}")
print(f"{time.monotonic() - start:.2f} {after.children_user - before.children_user:.2f} "
      f"{after.children_system - before.children_system:.2f}")
PYTHON
}

# Processor seconds of the encoders' threads while a recording runs: sampled from /proc, since they end with it.
encoders() {
  local pid
  while ! pid=$(pgrep -f "^$qemu .*libktracer"); do sleep 0.1; done
  python3 - "$pid" <<'PYTHON'
import os, sys, time
pid, seen = sys.argv[1], {}
tick = os.sysconf("SC_CLK_TCK")
while True:
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            text = open(f"/proc/{pid}/task/{task}/stat").read()
            name, fields = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
            seen[task] = (name, (int(fields[11]) + int(fields[12])) / tick)
    except (FileNotFoundError, ProcessLookupError):
        break
    time.sleep(0.05)
total = lambda test: sum(seconds for name, seconds in seen.values() if test(name))
print(f"{total(lambda n: n.startswith('ktracer-')):.2f} {total(lambda n: not n.startswith('ktracer-')):.2f}")
PYTHON
}

plain=() traced=() threads=()
for round in $(seq "$rounds"); do
  plain+=("$(measure "$qemu" "${arguments[@]}")")
  grep -q "Kernel panic" "$work/console" || fail "the boot did not reach its panic"
  encoders >"$work/threads" &
  traced+=("$(measure "$programs/ktracer" record --force -o "$work/trace" -- "$qemu" "${arguments[@]}")")
  wait
  threads+=("$(cat "$work/threads")")
  printf 'round %s: untraced %s, traced %s (seconds, user, system); encoders and other threads %s\n' \
    "$round" "${plain[-1]}" "${traced[-1]}" "${threads[-1]}" >&2
done
"$programs/ktracer" info --json "$work/trace" >"$work/info"
"$programs/ktracer" verify --json "$work/trace" >"$work/verify" || fail "the trace is not proved"
"$programs/ktracer" record --force -o "$work/portable" -- qemu-system-arm "${arguments[@]}" 2>"$work/out"
"$programs/ktracer" info --json "$work/portable" >"$work/info-portable"

mkdir -p benches/results
printf '%s\n' "${plain[@]}" >"$work/plain"
printf '%s\n' "${traced[@]}" >"$work/traced"
printf '%s\n' "${threads[@]}" >"$work/threads"
python3 - "$work" "$qemu" <<'PYTHON' | tee benches/results/fast.txt
import datetime, json, os, statistics, subprocess, sys
work, qemu = sys.argv[1:3]
load = lambda name: json.load(open(f"{work}/{name}"))
rows = lambda name: [[float(x) for x in line.split()] for line in open(f"{work}/{name}")]
info, portable, verify = load("info"), load("info-portable"), load("verify")
plain, traced, threads = rows("plain"), rows("traced"), rows("threads")
middle = lambda rows, column: statistics.median(row[column] for row in rows)
cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
version = subprocess.run([qemu, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
print(f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, {version}, patched; load {os.getloadavg()[0]:.1f}")
print(f"Debian armhf kernel boot to its panic: {info['instructions']:,} instructions, {info['blocks']:,} blocks, "
      f"{info['segments']:,} segments, path {info['path']}")
print(f"untraced: {[row[0] for row in plain]} s, median {middle(plain, 0):.2f} s")
print(f"recorded: {[row[0] for row in traced]} s, median {middle(traced, 0):.2f} s")
print(f"slow-down: {middle(traced, 0) / middle(plain, 0):.2f}x "
      f"(best of each: {min(r[0] for r in traced) / min(r[0] for r in plain):.2f}x)")
print(f"processor seconds: vCPU and other threads of QEMU {middle(threads, 1):.2f}, encoders {middle(threads, 0):.2f}; "
      f"untraced {middle(plain, 1) + middle(plain, 2):.2f}")
ratio = info["bytes_per_instruction"] / portable["bytes_per_instruction"]
print(f"trace: {info['bytes']:,} bytes, {info['bytes_per_instruction']:.4f} bytes per instruction with indexes; "
      f"portable path {portable['bytes_per_instruction']:.4f}: {ratio:.3f} of it")
print(f"verify: {verify['instructions_per_second'] / 1e6:.0f} M instructions/s; all proved")
PYTHON
