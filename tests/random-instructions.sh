#!/usr/bin/env bash
# Runs random A32, T32 and MIPS32 instruction sequences in QEMU and in ktracer's model, and compares all core registers at
# every instruction: the tests `random_instructions` and `random_mips`, for longer and with other sequences than `cargo test`
# does.
#
#   tests/random-instructions.sh [INSTRUCTIONS [SEED]]
#
# INSTRUCTIONS is how many to run of each instruction set and byte order (default 5000000), SEED what chooses them (default:
# the time).
# A failure names the seed of the image it happened in; give that with 1 instruction to run just this image again.
set -euo pipefail

cd "$(dirname "$0")/.."
export KTRACER_FUZZ_INSTRUCTIONS=${1:-5000000}
export KTRACER_FUZZ_SEED=${2:-$(date +%s)}
command -v qemu-system-arm >/dev/null || {
  echo "random-instructions: error: qemu-system-arm is missing; scripts/setup.sh installs it" >&2
  exit 1
}
echo "random-instructions: $KTRACER_FUZZ_INSTRUCTIONS instructions of each instruction set, seed $KTRACER_FUZZ_SEED" >&2
exec cargo test --release -p ktracer-tests --test random_instructions --test random_mips -- --nocapture
