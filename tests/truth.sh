#!/usr/bin/env bash
# Holds recordings against QEMU's own register log of the same runs: a million positions of U-Boot from reset, 300,000 of
# a guest in Thumb-2, and 700,000 of Debian's armhf kernel in windows, most with the MMU on and interrupts being taken; each
# position forward and backward; and all of RAM that the recording knows, at the end. The report goes to tests/results/truth.txt as well.
#
#   tests/truth.sh [--patched]     on the fast path, with the patched QEMU (make qemu); tests/results/truth-fast.txt
#
# Takes some minutes, and 2 GB below TMPDIR. Needs what scripts/setup.sh test installs.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace
mkdir -p tests/results
case ${1:-} in --patched) result=tests/results/truth-fast.txt ;; *) result=tests/results/truth.txt ;; esac
"${CARGO_TARGET_DIR:-target}/release/truth" "$@" | tee "$result.new"
mv "$result.new" "$result"
