#!/usr/bin/env bash
# Records Debian's installer on QEMU's malta until its programs run, on the patched QEMU, and holds what the recording shows at virtual
# addresses of programs and of the kernel, through the TLB, against QEMU's own debugger at eight places. The report goes to
# tests/results/mips-user.txt as well.
#
# Takes some minutes, and 2 GB below TMPDIR. Needs what scripts/setup.sh test installs, and the patched QEMU (make qemu).
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace
mkdir -p tests/results
"${CARGO_TARGET_DIR:-target}/release/mips_user" | tee tests/results/mips-user.txt.new
mv tests/results/mips-user.txt.new tests/results/mips-user.txt
