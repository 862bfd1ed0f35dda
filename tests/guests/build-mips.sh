#!/usr/bin/env bash
# Builds a guest: an executable for the -kernel of QEMU's malta.
#
#   tests/guests/build-mips.sh mips|mipsel SOURCE FILE [FLAG...]     big- or little-endian; SOURCE is beside this script, and the
#                                                                    flags are for the compiler
set -euo pipefail
here=$(realpath "$(dirname "$0")")

case ${1:-} in
  mips | mipsel) architecture=$1 ;;
  *) echo "build-mips: error: the byte order is mips or mipsel, not '${1:-}'" >&2; exit 1 ;;
esac
compiler=$architecture-linux-gnu-gcc
command -v "$compiler" >/dev/null || {
  echo "build-mips: error: $compiler is missing: install the Debian package gcc-$architecture-linux-gnu" >&2
  exit 1
}
machine=(-march=mips32r2 -mabi=32 -mfp32 -msoft-float -mbranch-likely)
place=(-mno-abicalls -mno-shared -fno-pic -G0 -static -no-pie)
freestanding=(-ffreestanding -nostdlib -fno-tree-loop-distribute-patterns)
exec "$compiler" "${machine[@]}" "${place[@]}" "${freestanding[@]}" -O2 -g -Wall -Wextra -Werror \
  "-ffile-prefix-map=$here=." -Wl,--build-id=none -T "$here/mips.ld" -o "$3" "$here/$2" "${@:4}"
