#!/usr/bin/env bash
# Records ten seconds of U-Boot and the whole boot of Debian's armhf kernel to its panic on the fast path, proves every
# instruction of both with `ktracer verify`, counts the events, and holds the kernel's interrupts, and all of its memory at the
# panic, against what QEMU logged and has. The report goes to tests/results/fast.txt as well.
#
# Takes some minutes, and 1 GB below TMPDIR. Needs what scripts/setup.sh test installs, and the patched QEMU (make qemu).
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace
mkdir -p tests/results
"${CARGO_TARGET_DIR:-target}/release/fast" | tee tests/results/fast.txt.new
mv tests/results/fast.txt.new tests/results/fast.txt
