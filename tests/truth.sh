#!/usr/bin/env bash
# Holds recordings against QEMU's own register log of the same runs: a million positions of U-Boot from reset, and half a
# million of Debian's armhf kernel in windows with the MMU on and interrupts being taken; each position forward and
# backward; and all of RAM at the end. The report goes to tests/results/truth.txt as well.
#
# Takes some ten minutes, and 2 GB below TMPDIR. Needs what scripts/setup.sh test installs.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace
mkdir -p tests/results
"${CARGO_TARGET_DIR:-target}/release/truth" | tee tests/results/truth.txt.new
mv tests/results/truth.txt.new tests/results/truth.txt
