# What build.sh and check.sh share: which QEMU the series is for, where its source comes from, and the log of what long
# commands print. They read it with `.`, after they have set `program`; scripts/debian.sh comes first.

patches=$root/qemu-patches
cache=${KTRACER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ktracer}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac
qemu_cache=$cache/qemu
tarballs=$qemu_cache/source

# The source tarballs that are known: the Debian release that takes it, the suite that has it, the file, its SHA-256. If a
# release has several, the newest comes last.
table='
bookworm bookworm-backports qemu_10.0.2+ds.orig.tar.xz  0901da33844a331bf8b3602b9c1fbd178e60b737c8e3ade678255bd090c9b9f1
trixie   trixie             qemu_10.0.13+ds.orig.tar.xz 6a0888e806c2ffc0c5f0733e974f9aea55491950d3c47c98669c8b236dde59ae
'

# The table's lines for a Debian release, the newest first.
known_for() { awk -v release="$1" 'NF && $1==release' <<<"$table" | tac; }
known_files() { awk 'NF {print $3}' <<<"$table"; }
checksum_of() { awk -v file="$1" '$3==file {print $4; exit}' <<<"$table"; }
is_known() { awk -v sum="$1" '$4==sum {found=1} END {exit !found}' <<<"$table"; }

checksum() { sha256sum <"$1" | cut -d' ' -f1; }

free_megabytes() { df -Pm "$1" | awk 'NR==2 {print $4}'; }

# Runs a long command with its output in the log. It gets a process group of its own, so that `stop` can end all of it.
job=
run_logged() {
  local status=0
  log_begin=$(($(stat -c %s "$log") + 1))
  set -m
  "$@" >>"$log" 2>&1 </dev/null &
  job=$!
  set +m
  wait "$job" || status=$?
  job=
  return "$status"
}

# Whether a process of the job's group is alive. One that has ended counts no more, even if nobody has taken its status.
job_lives() {
  local file text state parent group
  for file in /proc/[0-9]*/stat; do
    { text=$(<"$file"); } 2>/dev/null || continue
    read -r state parent group _ <<<"${text##*) }"
    [ "$group" != "$job" ] || [ "$state" = Z ] || return 0
  done
  return 1
}

# Ends the command that runs, if there is one, and waits for its end: it may be writing below a directory to be removed.
stop() {
  [ -n "$job" ] || return 0
  local tries=0
  kill -TERM -- "-$job" 2>/dev/null || true
  while job_lives; do
    [ $((tries += 1)) -le 30 ] || kill -KILL -- "-$job" 2>/dev/null || true
    sleep 0.1
  done
}

# Ends the script because of the command that run_logged has run last: shows the end of what it printed, less ninja's lines
# about what went well. $2, if given, is what to do.
broken() {
  tail -c "+$log_begin" "$log" | sed -E '/^\[[0-9]+\/[0-9]+\] /d' | tail -n 30 | sed "s/^/$program: | /" >&2
  [ "$(free_megabytes "$work")" -ge 16 ] || fail "$1: the disk is full that has $work (the whole log is $log)"
  fail "$1${2:+: $2} (the whole log is $log)"
}

# Writes the configuration for an apt that knows one source, and keeps what it writes below $1: neither root nor a change to
# the system's sources is needed.
private_apt() {
  local directory=$1 suite=$2 archive=$3
  mkdir -p "$directory/parts" "$directory/lists/partial" "$directory/cache/archives/partial"
  printf 'deb-src %s %s main\n' "$archive" "$suite" >"$directory/sources.list"
  cat >"$directory/apt.conf" <<EOF
Dir::Etc::sourcelist "$directory/sources.list";
Dir::Etc::sourceparts "$directory/parts";
Dir::State::lists "$directory/lists";
Dir::Cache "$directory/cache";
Acquire::Languages "none";
APT::Update::Error-Mode "any";
# As root apt would fetch as another user, who can't write here; signatures are checked all the same.
APT::Sandbox::User "root";
# What the system does after an update is not for this one.
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
EOF
}

# "VERSION FILE SHA-256" for each source of QEMU that the private apt in $1 knows.
offered() {
  apt-cache -c "$1/apt.conf" showsrc --only-source qemu 2>>"$log" | awk '
    function out() { if (version!="" && file!="") print version, file, sum; version=file="" }
    /^$/ {out()}
    /^[^ ]/ {sums=($1=="Checksums-Sha256:")}
    /^Version:/ {version=$2}
    sums && $3~/^qemu_.*\.orig\.tar\.[a-z0-9]*$/ {sum=$1; file=$3}
    END {out()}'
}

# Sets tarball and tarball_sum to the newest known source of this Debian release: from the cache, or fetched through apt
# from the machine's own archive. Works below $work.
find_tarball() {
  local release suite archive version file sum known apt=$work/apt
  release=$(codename)
  known=$(known_for "$release")
  [ -n "$known" ] || fail "no source of QEMU is known for this system (${release:-no Debian release}): give one with --source; known are" $(known_files)
  read -r _ suite file sum <<<"$known"
  tarball=$tarballs/$file tarball_sum=$sum
  if [ -e "$tarball" ]; then
    [ "$(checksum "$tarball")" = "$sum" ] && return
    say "$tarball is damaged; fetching it again"
  fi

  command -v apt-get >/dev/null || fail "apt-get is missing, which fetches $file: get that file in another way, and give it with --source"
  archive=$(archive "$release")
  [ -n "$archive" ] || fail "apt has no source for $release, so the address of $suite is not known: add one, or give the file $file with --source"
  say "looking for QEMU's source in $suite"
  private_apt "$apt" "$suite" "$archive"
  run_logged apt-get -c "$apt/apt.conf" -q update ||
    broken "apt cannot read the source index of $suite" "check the network, or give the file $file with --source"
  offered "$apt" >"$apt/offered" || fail "apt cannot read the source index of $suite that it has just fetched (the whole log is $log)"
  while read -r _ _ file sum; do
    version=$(awk -v file="$file" '$2==file {print $1; exit}' "$apt/offered")
    [ -z "$version" ] || break
  done <<<"$known"
  [ -n "$version" ] || not_known "$suite" "$(tail -n 1 "$apt/offered")"
  fetch "$file" "$version" "$sum"
}

# Gets the file $1 of version $2 into the cache, with the private apt; sets tarball and tarball_sum. $3 is its SHA-256.
fetch() {
  local apt=$work/apt file=$1
  say "fetching $file"
  mkdir "$apt/here"
  cd "$apt/here"
  run_logged apt-get -c "$apt/apt.conf" -q source --only-source --download-only --tar-only "qemu=$2" ||
    broken "apt cannot fetch $file" "check the network, or give the file with --source"
  cd "$root"
  [ -f "$apt/here/$file" ] || broken "apt has not fetched $file"
  verify "$apt/here/$file" "$3" "$file as the archive has it"
  mkdir -p "$tarballs"
  mv "$apt/here/$file" "$tarballs/$file" || fail "cannot write $tarballs/$file"
  tarball=$tarballs/$file tarball_sum=$3
}

# Ends the script: the suite $1 offers only a source that is not in the table, as "VERSION FILE SHA-256".
not_known() {
  local version file sum
  read -r version file sum <<<"$2"
  [ -n "$version" ] || fail "$1 has no source of QEMU: check the apt sources, or give a tarball with --source"
  fetch "$file" "$version" "$sum"
  version=${version#*:}
  fail "$1 now has QEMU ${version%%[+-]*}, which is not in the table of known sources. To try the patches on it:" \
    "qemu-patches/build.sh --source '$tarball' --sha256 $sum. If that works, add this line to the table in qemu-patches/common.sh:" \
    "$(codename) $1 $file $sum"
}

# Ends the script if the file $1 does not have the SHA-256 $2; $3 is what it is called, if not by its name.
verify() {
  local sum
  sum=$(checksum "$1")
  [ "$sum" = "$2" ] || fail "${3:-$1} is not what was expected: its SHA-256 is $sum, and should be $2. Don't use it; get the file with that sum from a source that you trust, and give it with --source"
}

# Unpacks the tarball $1 below the new directory $2, without the sources of firmware in roms/: two thirds of it, and not built.
unpack() {
  mkdir "$2"
  run_logged tar -C "$2" --no-same-owner --strip-components=1 --anchored --no-wildcards-match-slash --exclude='*/roms' -xf "$1" ||
    broken "cannot unpack $1"
  [ -f "$2/VERSION" ] && [ -f "$2/configure" ] || fail "$1 does not hold QEMU's source: it has no VERSION and configure"
}

# Applies the series to the source in $1; other arguments are for patch.
apply() {
  local source=$1 patch output version
  shift
  version=$(cat "$source/VERSION")
  for patch in "${series[@]}"; do
    if ! output=$(patch -d "$source" -p1 --force --no-backup-if-mismatch "$@" <"$patch" 2>&1); then
      sed "s/^/$program: | /" <<<"$output" >&2
      fail "${patch##*/} does not apply to QEMU $version: rebase the series (qemu-patches/README.md says how), or take the source that it is for; known are" $(known_files)
    fi
  done
}

shopt -s nullglob
series=("$patches"/*.patch)
shopt -u nullglob

count_patches() { if [ ${#series[@]} = 1 ]; then printf '1 patch'; else printf '%s patches' ${#series[@]}; fi; }
