# What the scripts that install Debian packages share; they read it with `.`, after they have set `program` to the name
# that goes in front of each message.

say() { printf '%s: %s\n' "$program" "$*" >&2; }
fail() { printf '%s: error: %s\n' "$program" "$*" >&2; exit 1; }

can_be_root() { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }

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

# Installs with apt-get; its options can go in front of the packages.
apt_install() {
  # sudo drops the environment. Another apt-get may have the lock, so wait for that.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qy --no-install-recommends "$@" >&2 ||
    fail "apt-get could not install what is missing ($*); its messages are above"
}

install_packages() {
  local missing=() package
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} = 0 ] && return
  can_be_root || fail "Debian packages are missing, and there is neither root nor sudo to install them; ask for: apt-get install ${missing[*]}"
  update_once
  say "installing ${missing[*]}"
  apt_install "${missing[@]}"
}

# The first archive of the machine's apt sources that carries the given suite's release, in both source formats, as what
# stands between `deb` and the suite in sources.list: the address, and in front of it [options] if it needs any.
archive() {
  local suite=$1
  {
    # One stanza at a time: its fields come in any order. A key that is written out in the stanza can't be passed on.
    { cat /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } | awk -v suite="$suite" 'BEGIN {RS=""; FS="\n"} {
      uri=""; carries=0; options=""
      for (i=1; i<=NF; i++) {
        count=split($i, word, /[ \t]+/)
        if (word[1]=="URIs:") uri=word[2]
        if (word[1]=="Suites:") for (j=2; j<=count; j++) if (word[j]==suite) carries=1
        if (word[1]=="Signed-By:" && word[2]~/^\//) options=options " signed-by=" word[2]
        if (word[1]=="Trusted:" && word[2]=="yes") options=options " trusted=yes"
      }
      if (carries && uri!="") print (options=="" ? "" : "[" substr(options, 2) "] ") uri
    }'
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } | awk -v suite="$suite" '$1=="deb" {
      options=""
      if (match($0, /\[[^]]*\]/)) {
        count=split(substr($0, RSTART+1, RLENGTH-2), word, /[ \t]+/)
        for (i=1; i<=count; i++) if (word[i]~/^(signed-by|trusted)=/) options=options " " word[i]
        sub(/\[[^]]*\]/, "")
      }
      if ($3==suite) print (options=="" ? "" : "[" substr(options, 2) "] ") $2
    }'
  } | awk 'NR==1'
}

# The name of this Debian release; empty where there is none, as in testing.
codename() { (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}"); }
