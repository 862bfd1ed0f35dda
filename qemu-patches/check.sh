#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
Checks the patch series: whether it applies, with no fuzz, to each QEMU that it is for, and whether QEMU's own
scripts/checkpatch.pl finds errors in it. Builds nothing.

    qemu-patches/check.sh [--source FILE] ...

It takes the source that build.sh builds on this Debian release (fetched if it is not in the cache), each other source of the
table in qemu-patches/common.sh that is in ~/.cache/ktracer/qemu/source, and each FILE: one of the table's, for another release.

Exit status: 0 all is well; 1 a patch is wrong, or the check was not possible; 2 the command line is wrong.
EOF
}

program=check
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/debian.sh"
. "$root/qemu-patches/common.sh"

given=()
while [ $# -gt 0 ]; do
  case $1 in
    --source)
      [ -n "${2-}" ] || { printf '%s: error: --source needs a value; --help explains it\n' "$program" >&2; exit 2; }
      given+=("$2")
      shift ;;
    --help | -h) usage; exit ;;
    *) printf '%s: error: unknown option %s; --help explains what there is\n' "$program" "$1" >&2; exit 2 ;;
  esac
  shift
done
for file in "${given[@]}"; do
  [ -f "$file" ] || fail "$file: there is no such file"
  sum=$(checksum "$file")
  is_known "$sum" || fail "$file has the SHA-256 $sum, which is not in the table of qemu-patches/common.sh; known are" $(known_files)
done
[ ${#series[@]} -gt 0 ] || fail "there are no patches in $patches: is this a whole checkout?"
for entry in patch:patch perl:perl xz:xz-utils; do
  command -v "${entry%%:*}" >/dev/null || fail "${entry%%:*} is missing, which Debian has as ${entry#*:}"
done

work=''
clean_up() { [ -z "$work" ] || rm -rf "$work"; }
interrupted() {
  stop
  exit "$1"
}
trap clean_up EXIT
# For what nothing here expects to fail, so that no end is without a word.
set -E
trap 'say "error: unexpected: line $LINENO: $BASH_COMMAND"' ERR
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP
work=$(mktemp -d) || fail "cannot make a temporary directory: is the disk full?"
log=$work/log
: >"$log"

# The release's own source comes first; it is the one whose checkpatch.pl is asked.
tarball=''
if [ ${#given[@]} = 0 ] || [ -n "$(known_for "$(codename)")" ]; then find_tarball; fi
sources=()
seen=' '
add() {
  local sum
  sum=$(checksum "$1")
  case $seen in *" $sum "*) return ;; esac
  seen+="$sum "
  sources+=("$1")
}
[ -z "$tarball" ] || add "$tarball"
for file in $(known_files); do
  [ ! -f "$tarballs/$file" ] || { verify "$tarballs/$file" "$(checksum_of "$file")"; add "$tarballs/$file"; }
done
for file in "${given[@]}"; do add "$file"; done

bad=()
# Runs the checkpatch.pl of the source in $1 on each patch. Warnings are shown and do no harm.
check_style() {
  local patch output
  for patch in "${series[@]}"; do
    output=$(cd "$1" && perl scripts/checkpatch.pl --no-summary --color=never "$patch" 2>&1) || bad+=("${patch##*/}")
    [[ $output == *'no obvious style problems'* ]] || sed "s/^/$program: | /" <<<"$output" >&2
  done
}

for source in "${sources[@]}"; do
  directory=$work/source
  unpack "$source" "$directory"
  [ "$source" != "${sources[0]}" ] || check_style "$directory"
  apply "$directory" --fuzz=0
  say "QEMU $(cat "$directory/VERSION") takes $(count_patches) without fuzz"
  rm -rf "$directory"
done
[ ${#bad[@]} = 0 ] || fail "QEMU's checkpatch.pl finds errors in ${bad[*]}: correct what is shown above"
say "QEMU's checkpatch.pl finds no errors in $(count_patches)"
