#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
Builds the QEMU that ktracer's patches are for, with them, and installs it below ~/.cache/ktracer/qemu.

    qemu-patches/build.sh [OPTIONS]

  --targets LIST    what to build, separated by commas (default: arm-softmmu,mipsel-softmmu,mips-softmmu)
  --prefix DIR      install into DIR instead; a DIR that holds something else is left alone
  --plugin FILE     install FILE, ktracer's plugin, as lib/ktracer/libktracer.so, where `-ktrace` looks for it
  --source FILE|DIR build this tarball, or this unpacked source (which is copied, never changed), instead of Debian's
  --sha256 SUM      what --source FILE must have, if FILE is not one that this script knows
  --no-patches      build the source as it is: for a DIR that has the patches already, or to compare
  --keep            if the build fails, keep its directory
  --print-prefix    print where the build is or would be; exit 0 if it is there and complete, 1 if not
  --help

Nothing is built again unless the source, a patch, the targets, the options for QEMU's configure, the compiler's flags or the
system's release has changed: a build has a name of its own for each, ~/.cache/ktracer/qemu/HASH. The link
~/.cache/ktracer/qemu/current names the one that was asked for last; `ktracer record --patched` takes QEMU from there.
Everything below ~/.cache/ktracer/qemu can be removed at any time; a new build removes all but the four asked for last.

Debian 12 and 13 need nothing else: the source comes from the system's own archive through apt, the packages that are missing
are installed (as root, or with sudo), and three Python packages come from the Python package index. Three targets take 5 to
6 minutes on two cores, and 400 MB below ~/.cache/ktracer meanwhile.

Examples:
    qemu-patches/build.sh                                        # what `make qemu` does
    qemu-patches/build.sh --targets arm-softmmu --source ~/src/qemu --no-patches --prefix /tmp/try

Environment: KTRACER_CACHE instead of ~/.cache/ktracer; CC, CFLAGS and LDFLAGS for QEMU's configure.
Exit status: 0 built, or there already; 1 it failed; 2 the command line is wrong; 128 + the number of the signal that ended it.
EOF
}

program=qemu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/debian.sh"
. "$root/qemu-patches/common.sh"

wrong() { printf '%s: error: %s; --help explains the options\n' "$program" "$*" >&2; exit 2; }

targets=arm-softmmu,mipsel-softmmu,mips-softmmu
prefix='' plugin='' source='' given_sum='' keep='' print_prefix=''
while [ $# -gt 0 ]; do
  option=$1
  case $option in
    --targets | --prefix | --plugin | --source | --sha256)
      [ -n "${2-}" ] || wrong "$option needs a value"
      case $option in
        --targets) targets=$2 ;;
        --prefix) prefix=$(realpath -sm -- "$2") ;;
        --plugin) plugin=$2 ;;
        --source) source=$2 ;;
        --sha256) given_sum=${2,,} ;;
      esac
      shift ;;
    --no-patches) series=() ;;
    --keep) keep=1 ;;
    --print-prefix) print_prefix=1 ;;
    --help | -h) usage; exit ;;
    *) wrong "unknown option $option" ;;
  esac
  shift
done
for target in ${targets//,/ }; do
  case $target in
    *[!a-z0-9_-]*) wrong "$target is not the name of a target" ;;
    *-softmmu) ;;
    *) wrong "$target: ktracer records whole systems, so a target ends in -softmmu" ;;
  esac
done
[ -n "${targets//,/}" ] || wrong "--targets is empty"
[ -z "$given_sum" ] || [[ $given_sum =~ ^[0-9a-f]{64}$ ]] || wrong "--sha256 takes 64 hexadecimal digits"
[ -z "$given_sum" ] || [ -f "$source" ] || wrong "--sha256 is for --source FILE"
[ -z "$source" ] || [ -e "$source" ] || fail "$source: there is no such file or directory"
[ -z "$plugin" ] || [ -f "$plugin" ] || fail "$plugin is missing: cargo build --release --workspace builds the plugin"

# The binaries find what belongs to them from where they are, so one build does at every prefix. Debian's firmware for network
# cards, without which `-M virt` does not start, is in the same places for every QEMU.
built_for=/opt/ktracer-qemu
configuration=(
  --without-default-features --enable-tcg --enable-system --enable-fdt=system --enable-plugins --enable-slirp
  --enable-pixman --disable-docs --disable-install-blobs --disable-werror --disable-debug-info --disable-download
  "--prefix=$built_for" --firmwarepath=/usr/share/qemu:/usr/share/seabios:/usr/lib/ipxe/qemu
)
# What QEMU's configure wants from its Python.
python_packages=(meson==1.5.0 pycotap==1.3.1 distlib)
stamp=.ktracer-build

# Names the contents of a directory with sources; git's own files and a build in the tree do not count.
tree_sum() {
  (
    cd "$1"
    find . \( -path ./.git -o -path ./build -o -path ./roms \) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    find . \( -path ./.git -o -path ./build -o -path ./roms \) -prune -o -type l -printf '%p -> %l\n' | LC_ALL=C sort
  ) | checksum /dev/stdin
}

# Sets source_sum, on which the name of the build depends, without fetching anything.
name_source() {
  if [ -d "$source" ]; then
    [ -f "$source/VERSION" ] && [ -f "$source/configure" ] || fail "$source is not QEMU's source: it has no VERSION and configure"
    source_sum=$(cat "$source/VERSION")-$(tree_sum "$source")
  elif [ -n "$source" ]; then
    source_sum=${given_sum:-$(checksum "$source")}
    [ -n "$given_sum" ] || is_known "$source_sum" ||
      fail "$source has the SHA-256 $source_sum, which is not one that this script knows; if you trust the file, add --sha256 $source_sum. Known are" $(known_files)
  else
    source_sum=$(known_for "$(codename)" | awk 'NR==1 {print $4}')
  fi
}

# Sets hash and destination from source_sum.
name_build() {
  local patch
  hash=$(
    {
      printf '%s\n' "source $source_sum" "targets $targets" "configuration ${configuration[*]}" "system $(uname -m) $(codename)" \
        "compiler ${CC:-} ${CFLAGS:-} ${LDFLAGS:-}" "python ${python_packages[*]}"
      for patch in "${series[@]}"; do printf 'patch %s %s\n' "${patch##*/}" "$(checksum "$patch")"; done
    } | checksum /dev/stdin | cut -c1-16
  )
  destination=${prefix:-$qemu_cache/$hash}
}

is_built() {
  local target
  grep -qsx "hash $hash" "$destination/$stamp" || return 1
  for target in ${targets//,/ }; do [ -x "$destination/bin/qemu-system-${target%-softmmu}" ] || return 1; done
}

# What is done each time, for a build that is there: the plugin, and the link to the build asked for last.
finish() {
  local library=$destination/lib/ktracer/libktracer.so
  if [ -n "$plugin" ] && ! cmp -s "$plugin" "$library"; then
    # A QEMU that runs keeps the file that it has.
    mkdir -p "${library%/*}" && cp "$plugin" "$library.$$" && mv "$library.$$" "$library" || fail "cannot copy $plugin to $library"
  fi
  if [ -z "$prefix" ] && [ "$(readlink "$qemu_cache/current")" != "$hash" ]; then
    ln -sfn "$hash" "$qemu_cache/current.$$" && mv -T "$qemu_cache/current.$$" "$qemu_cache/current" || fail "cannot set the link $qemu_cache/current"
  fi
  # When it was asked for last, for remove_old.
  [ ! -w "$destination/$stamp" ] || touch "$destination/$stamp"
}

# Removes the builds in the cache that nobody has asked for since the four that were asked for last.
remove_old() {
  local found kept=0
  while read -r found; do
    found=${found%/*}
    kept=$((kept + 1))
    [ "$kept" -gt 4 ] || continue
    say "removing an old build: $found"
    rm -rf "$found"
  done < <(find "$qemu_cache" -mindepth 2 -maxdepth 2 -name "$stamp" -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2-)
}

name_source
name_build
if [ -n "$print_prefix" ]; then
  [ -n "$source_sum" ] || fail "no source of QEMU is known for this system ($(codename)): give one with --source"
  printf '%s\n' "$destination"
  is_built
  exit
fi
if [ -n "$source_sum" ] && is_built; then
  finish
  say "up to date: $destination"
  exit
fi

python=
# The first python3 that can make virtual environments. The system's comes first: one that a version manager puts in front
# of it may lack parts.
find_python() {
  local candidate
  for candidate in /usr/bin/python3 $(type -ap python3 || true); do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
      python=$candidate
      return
    fi
  done
  return 1
}

compiles() { printf '#include <%s>\n' "$1" | ${CC:-gcc} -E - >/dev/null 2>&1; }

# Sets missing to the Debian packages whose tools or libraries are not there.
find_missing() {
  local entry
  missing=()
  for entry in ninja:ninja-build pkg-config:pkg-config flex:flex bison:bison gcc:gcc make:make patch:patch xz:xz-utils bzip2:bzip2; do
    command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
  done
  for entry in glib-2.0:libglib2.0-dev pixman-1:libpixman-1-dev zlib:zlib1g-dev slirp:libslirp-dev; do
    pkg-config --exists "${entry%%:*}" 2>/dev/null || missing+=("${entry#*:}")
  done
  for entry in stdio.h:libc6-dev libfdt.h:libfdt-dev; do
    compiles "${entry%%:*}" || missing+=("${entry#*:}")
  done
  find_python || missing+=(python3 python3-venv)
  # The firmware of the network cards that boards have by default; not needed to build.
  ! command -v dpkg-query >/dev/null || installed ipxe-qemu || missing+=(ipxe-qemu)
}

get_what_is_missing() {
  find_missing
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || fail "not everything is there that QEMU needs; these Debian packages have the rest: ${missing[*]}"
  install_packages "${missing[@]}"
  find_missing
  [ ${#missing[@]} = 0 ] || fail "Debian's packages are installed, but what they have is not found: ${missing[*]}; check PATH, CC and PKG_CONFIG_PATH"
}

prepare_source() {
  if [ -d "$source" ]; then
    say "copying $source"
    mkdir "$work/source"
    run_logged bash -c 'set -o pipefail; tar -C "$0" --exclude=./.git --exclude=./build --exclude=./roms -cf - . | tar -C "$1" --no-same-owner -xf -' \
      "$source" "$work/source" || broken "cannot copy $source"
  else
    say "unpacking ${tarball##*/}"
    unpack "$tarball" "$work/source"
  fi
  version=$(cat "$work/source/VERSION")
  if [ ${#series[@]} = 0 ]; then
    say "note: no patches are applied, so this is a plain QEMU $version"
  else
    say "applying $(count_patches) to QEMU $version"
    apply "$work/source"
  fi
  # Debian's tarball lacks the firmware images, but meson wants these files to be there.
  local image
  for image in $(sed -n "/^ *fds = \[/,/\]/s/.*'\(edk2[^']*\)'.*/\1/p" "$work/source/pc-bios/meson.build"); do
    image=$work/source/pc-bios/$image.bz2
    [ -e "$image" ] || bzip2 </dev/null >"$image" || fail "cannot write $image"
  done
}

# A Python with what QEMU's configure wants; kept, so that the next build does without the network.
prepare_python() {
  environment=$qemu_cache/python
  grep -qsxF "$python ${python_packages[*]}" "$environment/$stamp" && "$environment/bin/python" -c 'import mesonbuild, pycotap, distlib' 2>/dev/null && return
  say "getting ${python_packages[*]} from the Python package index"
  rm -rf "$environment"
  run_logged "$python" -m venv "$environment" || broken "$python cannot make a virtual environment"
  run_logged "$environment/bin/python" -m pip install --disable-pip-version-check --no-input "${python_packages[@]}" ||
    broken "pip cannot get ${python_packages[*]}" "check the network, and pip's own configuration"
  printf '%s\n' "$python ${python_packages[*]}" >"$environment/$stamp"
}

configure() {
  mkdir "$work/build"
  cd "$work/build"
  run_logged ../source/configure "--python=$environment/bin/python" "--target-list=$targets" "${configuration[@]}" ||
    broken "QEMU's configure has failed"
  cd "$root"
}

# Passes ninja's output on, and says on standard error how far it is: on a terminal in one line, else at each tenth.
show_progress() {
  local line shown=-1 begun=$SECONDS text
  while IFS= read -r line; do
    printf '%s\n' "$line"
    [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]] || continue
    text="compiling: ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} steps, $(((SECONDS - begun) / 60)) min $(((SECONDS - begun) % 60)) s"
    if [ -t 3 ]; then
      printf '\r%s: %s\033[K' "$program" "$text" >&3
    elif [ $((10 * BASH_REMATCH[1] / BASH_REMATCH[2])) -gt "$shown" ]; then
      shown=$((10 * BASH_REMATCH[1] / BASH_REMATCH[2]))
      printf '%s: %s\n' "$program" "$text" >&3
    fi
  done
  [ ! -t 3 ] || printf '\r\033[K' >&3
}

run_ninja() { NINJA_STATUS='[%f/%t] ' ninja -C "$work/build" "-j$(nproc)" "$@" 2>&1 | show_progress; }

# The emulators and what is installed beside them. `ninja` alone would build a third more: the tests and the example plugins.
compile() {
  local target goals=(trace/trace-events-all)
  for target in ${targets//,/ }; do goals+=("qemu-system-${target%-softmmu}"); done
  run_logged run_ninja "${goals[@]}" || broken "QEMU does not compile" "what failed is in the log after FAILED"
}

# Everything is put together beside its place, with the stamp, and then takes it in one step.
install_build() {
  local staged=$work/root/$built_for old=$destination.old.$$ patch
  new=$destination.new.$$
  run_logged env DESTDIR="$work/root" "$work/build/pyvenv/bin/meson" install --no-rebuild -C "$work/build" ||
    broken "cannot install below $work"
  {
    printf '%s\n' "hash $hash" "version $version" "source $source_sum" "targets $targets"
    for patch in "${series[@]}"; do printf 'patch %s\n' "${patch##*/}"; done
    printf 'configure %s\n' "${configuration[*]}"
  } >"$staged/$stamp"
  if ! { mkdir -p "${destination%/*}" && mv "$staged" "$new"; }; then
    fail "cannot write beside $destination: check its permissions and the space on its disk"
  fi
  trap '' INT TERM HUP
  [ ! -e "$destination" ] || mv "$destination" "$old"
  mv -T "$new" "$destination"
  rm -rf "$old"
}

# With --prefix, what is there must be ours or nothing.
check_destination() {
  local parent=$destination
  [ ! -e "$destination/$stamp" ] || return 0
  if [ -e "$destination" ] && { [ ! -d "$destination" ] || [ -n "$(ls -A "$destination")" ]; }; then
    [ -n "$prefix" ] || return 0
    fail "$destination holds something that this script has not put there: choose another --prefix, or remove it"
  fi
  until [ -d "$parent" ]; do parent=$(dirname "$parent"); done
  [ -w "$parent" ] || fail "no permission to write below $parent: choose another place with --prefix or KTRACER_CACHE"
}

case $qemu_cache in *[[:space:]:]*) fail "QEMU's configure does not work below a directory with a space or a colon in its name, $qemu_cache: choose another with KTRACER_CACHE" ;; esac
mkdir -p "$qemu_cache" 2>/dev/null && [ -w "$qemu_cache" ] || fail "cannot write below $qemu_cache: choose another directory with KTRACER_CACHE"
check_destination
unset PYTHONPATH PYTHONHOME MAKEFLAGS MAKELEVEL MFLAGS DESTDIR

work='' new=''
clean_up() {
  local status=$?
  trap - ERR
  [ -z "$new" ] || rm -rf "$new"
  [ -n "$work" ] || return 0
  if [ "$status" != 0 ] && [ -n "$keep" ]; then
    touch "$work/.kept"
    say "the directory of this build stays: $work"
  else
    rm -rf "$work"
  fi
}
interrupted() {
  trap '' INT TERM HUP
  stop
  [ ! -t 3 ] || printf '\r\033[K' >&3
  say "interrupted; nothing was installed; cleaning up"
  exit "$1"
}
exec 3>&2
trap clean_up EXIT
# For what nothing here expects to fail, so that no end is without a word.
set -E
trap 'say "error: unexpected: line $LINENO: $BASH_COMMAND"' ERR
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

exec 9>"$qemu_cache/lock"
if ! flock -n 9; then
  say "another build is running; waiting for it"
  flock 9
fi
# What a build left that was killed.
for left in "$qemu_cache"/build-*; do [ ! -d "$left" ] || [ -e "$left/.kept" ] || rm -rf "$left"; done
if [ -n "$source_sum" ] && is_built; then
  finish
  say "the other build has made it: $destination"
  exit
fi

begun=$SECONDS
log=$qemu_cache/build.log
: >"$log"
work=$(mktemp -d "$qemu_cache/build-XXXXXX")
get_what_is_missing
[ "$(free_megabytes "$work")" -ge 600 ] || fail "$(free_megabytes "$work") MB are free below $qemu_cache, and the build needs 600: make room, or choose another disk with KTRACER_CACHE"
if [ -f "$source" ]; then
  tarball=$source
  verify "$tarball" "$source_sum"
elif [ -z "$source" ]; then
  find_tarball
  # An archive that lags behind the table may have an older one that is known, and that may be built.
  if [ "$tarball_sum" != "$source_sum" ]; then
    source_sum=$tarball_sum
    name_build
    if is_built; then
      finish
      say "up to date: $destination"
      exit
    fi
  fi
fi
prepare_source
prepare_python
say "configuring QEMU $version for $targets"
configure
compile
install_build
finish
[ -n "$prefix" ] || remove_old
say "QEMU $version with $(count_patches) is in $destination, after $(((SECONDS - begun) / 60)) min $(((SECONDS - begun) % 60)) s"
