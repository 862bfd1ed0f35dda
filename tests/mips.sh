#!/usr/bin/env bash
# Records the whole boot of Debian's mipsel kernel on QEMU's malta to its panic on the patched QEMU, 3.8 G instructions; proves all
# of it with `ktracer verify`; holds 650,000 positions of it, in eight windows of which one has 300,000, against QEMU's own log of the same run,
# register by register, forward and backward, with every interrupt and exception in them; and all of RAM at the end against
# QEMU's. The report goes to tests/results/mips.txt as well.
#
#   tests/mips.sh [--short]     --short: only the boot's first 2.6 G instructions, with four windows, and no report in tests/results
#
# Takes some minutes, and 2 GB below TMPDIR. Needs what scripts/setup.sh test installs, and the patched QEMU (make qemu).
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace
program=${CARGO_TARGET_DIR:-target}/release/mips
case ${1:-} in --short) exec "$program" --short ;; esac
mkdir -p tests/results
"$program" "$@" | tee tests/results/mips.txt.new
mv tests/results/mips.txt.new tests/results/mips.txt
