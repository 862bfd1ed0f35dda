#!/usr/bin/env bash
# Records some seconds of U-Boot, serves the recording, and lets gdb go through it backwards. `make demo` calls this after
# it has installed and built everything. The recording stays in target/demo/trace, to play with.
#
#   scripts/demo.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-5}
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
uboot=$cache/firmware/u-boot-qemu/usr/lib/u-boot/qemu_arm/u-boot.bin
programs=${CARGO_TARGET_DIR:-target}/release
demo=${CARGO_TARGET_DIR:-target}/demo

bold= plain=
if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { printf 'demo: error: %s\n' "$*" >&2; exit 1; }

[ -f "$uboot" ] || fail "U-Boot is missing: run scripts/setup.sh demo"
[ -x "$programs/ktracer" ] && [ -x "$programs/ktreplay" ] || fail "not built yet: run cargo build --release --workspace"

mkdir -p "$demo"
say "1. Recording U-Boot for $seconds seconds"
printf '%s\n' "   ktracer record -o $demo/trace -- qemu-system-arm -M virt -m 64 -nic none -display none -serial file:$demo/console.log -bios u-boot.bin"
# timeout ends it as Ctrl-C would; the recording is closed properly.
timeout --preserve-status -s TERM "$seconds" "$programs/ktracer" record -o "$demo/trace" --force -- \
  qemu-system-arm -M virt -m 64 -nic none -display none -serial "file:$demo/console.log" -bios "$uboot"
say "   What it said meanwhile:"
tr -d '\r' < "$demo/console.log" | grep . | head -n 6 | sed 's/^/   | /'

say "2. Proving it: every instruction is executed again, and compared with what QEMU did"
printf '   ktracer verify %s/trace\n' "$demo"
"$programs/ktracer" verify "$demo/trace" | sed 's/^/   | /'

say "3. Serving the recording; QEMU is gone"
"$programs/ktreplay" "$demo/trace" --port 0 > "$demo/server.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
address=
for _ in $(seq 300); do
  address=$(sed -n 's/.*listening on \([0-9.]*:[0-9]*\).*/\1/p' "$demo/server.log")
  [ -n "$address" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$demo/server.log" >&2; fail "ktreplay has ended"; }
  sleep 0.1
done
[ -n "$address" ] || { cat "$demo/server.log" >&2; fail "ktreplay does not listen"; }
printf '   ktreplay %s/trace: listening on %s\n' "$demo" "$address"

say "4. gdb goes to the end, and back"
# Where U-Boot's relocation adds its distance: the first word e08ee000 (add lr, lr, r0), little-endian, at an aligned
# offset of the file. The file is at address 0 in flash, so offsets are addresses.
addition=$(LC_ALL=C grep -obUaP '\x00\xe0\x8e\xe0' "$uboot" | cut -d: -f1 | awk '$1 % 4 == 0 { print $1; exit }')
[ -n "$addition" ] || fail "this U-Boot has no instruction add lr, lr, r0: $uboot"
gdb-multiarch -nx -batch -ex 'set architecture arm' -ex "target remote $address" \
  -ex "set \$addition = $addition" -x scripts/demo.gdb 2>&1 | grep -v -e '^warning: No executable' -e '^determining exec' ||
  fail "the gdb session went wrong; the server's log is $demo/server.log"

say "Done. Go on by yourself:"
printf '%s\n' "   $programs/ktreplay $demo/trace" "   gdb-multiarch -ex 'target remote :1234'"
