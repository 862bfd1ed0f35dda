#!/usr/bin/env bash
# Records ten seconds of U-Boot and the whole boot of Debian's armhf kernel to its panic, and proves every instruction of
# both with `ktracer verify`. The result goes to tests/results/proofs.txt. Takes two or three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=${CARGO_TARGET_DIR:-target}/release
firmware=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}/firmware
uboot=$firmware/u-boot-qemu/usr/lib/u-boot/qemu_arm/u-boot.bin
kernel=$firmware/vmlinuz-armhf
for file in "$uboot" "$kernel"; do
  [ -e "$file" ] || { echo "proofs.sh: error: $file is missing: run scripts/setup.sh test" >&2; exit 1; }
done
cargo build --release --workspace
work=$(mktemp -d "${TMPDIR:-/tmp}/ktracer-proofs.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p tests/results

{
  printf '%s, %s, ktracer %s\n' "$(date -u +%F)" "$(qemu-system-arm --version | head -n 1)" "$(git rev-parse --short HEAD)"
  printf '\nU-Boot for ten seconds:\n'
  timeout --preserve-status -s TERM 10 "$programs/ktracer" record -o "$work/u-boot" -- \
    qemu-system-arm -M virt -m 128 -display none -serial "file:$work/u-boot.console" -bios "$uboot" 2>/dev/null
  "$programs/ktracer" verify "$work/u-boot"
  printf '\nThe kernel to its panic:\n'
  "$programs/ktracer" record -o "$work/kernel" -- \
    qemu-system-arm -M virt -m 512 -display none -serial "file:$work/kernel.console" -no-reboot -kernel "$kernel" \
    -append "console=ttyAMA0 panic=-1" 2>/dev/null
  grep -ao "Kernel panic.*" "$work/kernel.console"
  "$programs/ktracer" verify "$work/kernel"
} 2>&1 | tee "$work/report"
grep -v '^ *\(Compiling\|Finished\)' "$work/report" >tests/results/proofs.txt
