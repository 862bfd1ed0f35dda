#!/usr/bin/env bash
# Installs what ktracer's build, demo and tests need on Debian 12 or 13, with apt, and nothing that is there already.
# QEMU must be 10.0: Debian 12 takes it from its backports suite, whose address comes from the machine's own apt sources.
# Also unpacks the guest firmware (U-Boot, Debian's armhf kernel) below ~/.cache/ktracer/firmware without installing it.
#
#   scripts/setup.sh demo     what `make demo` needs
#   scripts/setup.sh test     what `make test` needs (the default)
set -euo pipefail

purpose=${1:-test}
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
firmware=$cache/firmware

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null || fail "cargo is missing: install Rust (stable, 1.85 or newer) first, for example with rustup"
command -v apt-get >/dev/null || fail "this script knows Debian only; elsewhere install QEMU >= 9.2 with plugins, gdb-multiarch, a C compiler and make by hand"

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else fail "need root to run: $*"
  fi
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]; }

updated=
update_once() {
  [ -n "$updated" ] && return
  say "apt-get update"
  as_root apt-get update -q >&2 || fail "apt-get update failed: check the network and the apt sources"
  updated=1
}

# The first archive address of the machine's apt sources that carries the given suite's release, in both source formats.
archive_uri() {
  local suite=$1
  {
    # One stanza at a time: its fields come in any order.
    { cat /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } | awk -v suite="$suite" 'BEGIN {RS=""; FS="\n"} {
      uri=""; carries=0
      for (i=1; i<=NF; i++) {
        count=split($i, word, /[ \t]+/)
        if (word[1]=="URIs:") uri=word[2]
        if (word[1]=="Suites:") for (j=2; j<=count; j++) if (word[j]==suite) carries=1
      }
      if (carries && uri!="") print uri
    }'
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } | sed 's/\[[^]]*\]//' |
      awk -v suite="$suite" '$1=="deb" && $3==suite {print $2}'
  } | awk 'NR==1'
}

codename() { . /etc/os-release; printf '%s' "${VERSION_CODENAME:?}"; }

qemu_is_new_enough() {
  local version major minor
  command -v "$1" >/dev/null || return 1
  version=$("$1" --version | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
  major=${version%%.*} minor=${version#*.}
  [ "${major:-0}" -gt 9 ] || { [ "${major:-0}" = 9 ] && [ "${minor:-0}" -ge 2 ]; }
}

install_qemu() {
  qemu_is_new_enough qemu-system-arm && installed ipxe-qemu && return
  local suite uri
  suite=$(codename)
  update_once
  if [ "$suite" = bookworm ]; then
    uri=$(archive_uri bookworm)
    [ -n "$uri" ] || fail "no apt source for bookworm found, so bookworm-backports' address is not known"
    if ! apt-cache policy | grep bookworm-backports >/dev/null; then
      say "adding bookworm-backports from the address of bookworm"
      printf 'deb %s bookworm-backports main\n' "$uri" | as_root tee /etc/apt/sources.list.d/ktracer-backports.list >/dev/null
      updated=; update_once
    fi
    say "installing qemu-system-arm from bookworm-backports"
    as_root apt-get install -qy --no-install-recommends -t bookworm-backports qemu-system-arm ipxe-qemu >&2
  else
    say "installing qemu-system-arm"
    as_root apt-get install -qy --no-install-recommends qemu-system-arm ipxe-qemu >&2
  fi
  qemu_is_new_enough qemu-system-arm || fail "qemu-system-arm is older than 9.2 even after installing it: $(qemu-system-arm --version | head -n 1)"
}

install_packages() {
  local missing=() package
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} = 0 ] && return
  update_once
  say "installing ${missing[*]}"
  as_root apt-get install -qy --no-install-recommends "${missing[@]}" >&2
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

# Debian's armhf installer kernel: each release carries the package of its own number. Leaves a link to the kernel whose
# name does not depend on that.
unpack_kernel() {
  local release package kernel
  case $(codename) in bookworm) release=12 ;; *) release=13 ;; esac
  package=debian-installer-$release-netboot-armhf
  unpack_firmware "$package"
  kernel=$package/usr/lib/debian-installer/images/$release/armhf/text/debian-installer/armhf/vmlinuz
  [ -f "$firmware/$kernel" ] || fail "$package holds no $kernel"
  ln -sfn "$kernel" "$firmware/vmlinuz-armhf"
}

export DEBIAN_FRONTEND=noninteractive
install_packages gcc libc6-dev make gdb-multiarch
install_qemu
unpack_firmware u-boot-qemu
if [ "$purpose" = test ]; then
  install_packages python3 gcc-arm-none-eabi binutils-arm-none-eabi
  unpack_kernel
fi
