#!/usr/bin/env bash
# Installs what ktracer's build, demo and tests need on Debian 12 or 13, with apt, and nothing that is there already.
# QEMU must be 10.0: Debian 12 takes it from its backports suite, whose address comes from the machine's own apt sources.
# Also unpacks the guest firmware (U-Boot, Debian's armhf and mipsel kernels) below ~/.cache/ktracer/firmware without installing it.
#
#   scripts/setup.sh demo     what `make demo` needs
#   scripts/setup.sh test     what `make test` needs (the default)
set -euo pipefail

purpose=${1:-test}
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
firmware=$cache/firmware

program=setup
. "$(dirname "$0")/debian.sh"

PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null || fail "cargo is missing: install Rust (stable, 1.88 or newer) first, for example with rustup"
command -v apt-get >/dev/null || fail "this script knows Debian only; elsewhere install QEMU >= 9.2 with plugins, gdb-multiarch, a C compiler and make by hand"

qemu_is_new_enough() {
  local version major minor
  command -v "$1" >/dev/null || return 1
  version=$("$1" --version | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
  major=${version%%.*} minor=${version#*.}
  [ "${major:-0}" -gt 9 ] || { [ "${major:-0}" = 9 ] && [ "${minor:-0}" -ge 2 ]; }
}

install_qemu() {
  qemu_is_new_enough qemu-system-arm && installed ipxe-qemu && return
  can_be_root || fail "QEMU >= 9.2 is missing, and there is neither root nor sudo to install it; ask for qemu-system-arm and ipxe-qemu, on Debian 12 of bookworm-backports"
  local suite archive
  suite=$(codename)
  update_once
  if [ "$suite" = bookworm ]; then
    archive=$(archive bookworm)
    [ -n "$archive" ] || fail "no apt source for bookworm found, so bookworm-backports' address is not known"
    if ! apt-cache policy | grep bookworm-backports >/dev/null; then
      say "adding bookworm-backports from the address of bookworm"
      printf 'deb %s bookworm-backports main\n' "$archive" | as_root tee /etc/apt/sources.list.d/ktracer-backports.list >/dev/null
      updated=; update_once
    fi
    say "installing qemu-system-arm from bookworm-backports"
    apt_install -t bookworm-backports qemu-system-arm ipxe-qemu
  else
    say "installing qemu-system-arm"
    apt_install qemu-system-arm ipxe-qemu
  fi
  qemu_is_new_enough qemu-system-arm || fail "qemu-system-arm is older than 9.2 even after installing it: $(qemu-system-arm --version | head -n 1)"
}

# Unpacks one package's files below $firmware/NAME, from the machine's own apt sources.
unpack_firmware() {
  local package=$1 target=$firmware/$1 work
  [ -e "$target/.complete" ] && return
  update_once
  say "unpacking $package below $target"
  work=$(mktemp -d)
  chmod 755 "$work"
  (cd "$work" && apt-get download -q "$package" >&2) || fail "apt-get download $package failed"
  rm -rf "$target"
  mkdir -p "$target"
  dpkg -x "$work"/*.deb "$target"
  touch "$target/.complete"
  rm -rf "$work"
}

# The kernel of Debian's installer for armhf or mipsel: each release carries the package of its own number. Leaves a link to
# the kernel whose name does not depend on that.
unpack_kernel() {
  local architecture=$1 file=$2 release package kernel
  case $(codename) in bookworm) release=12 ;; *) release=13 ;; esac
  # mipsel has left Debian after 12.
  [ "$architecture" != mipsel ] || release=12
  package=debian-installer-$release-netboot-$architecture
  if [ "$architecture" = mipsel ] && [ ! -e "$firmware/$package/.complete" ]; then
    update_once
    if [ -z "$(apt-cache madison "$package")" ]; then
      say "this machine's apt sources have no $package: tests/mips.sh, the long proof on a MIPS kernel, can't be run"
      return
    fi
  fi
  unpack_firmware "$package"
  # The name of the file may hold a version.
  kernel=$(cd "$firmware" && printf '%s\n' $package/usr/lib/debian-installer/images/$release/$architecture/$file | tail -n 1)
  [ -f "$firmware/$kernel" ] || fail "$package holds no $kernel"
  ln -sfn "$kernel" "$firmware/vmlinuz-$architecture"
}

install_packages gcc libc6-dev make gdb-multiarch
install_qemu
unpack_firmware u-boot-qemu
if [ "$purpose" = test ]; then
  install_packages python3 gcc-arm-none-eabi binutils-arm-none-eabi gcc-mipsel-linux-gnu gcc-mips-linux-gnu
  unpack_kernel armhf text/debian-installer/armhf/vmlinuz
  unpack_kernel mipsel 'malta/vmlinuz-*-4kc-malta'
fi
