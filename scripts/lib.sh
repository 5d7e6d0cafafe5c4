# Shared by the set-up scripts. They install what they need outside the tree, once, under a name that
# holds the hash of what was asked for, so that a second run does nothing.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ringback

# folder NAME FILE...: the cache folder for these packages.
folder() {
  local name=$1
  shift
  echo "$cache/$name-$(cat "$@" | sha256sum | cut -c1-12)"
}

# need COMMAND PACKAGE...: makes sure that a command is there, from Debian's packages if we may.
need() {
  local command=$1
  shift
  if command -v "$command" >/dev/null 2>&1; then return; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing $* (for $command)" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "$@" >&2 && return
  fi
  echo "$command is missing; as root on Debian: apt-get install $*" >&2
  exit 1
}

# once DIR COMMAND...: runs a command that fills DIR, unless it was filled before. A run that breaks
# off leaves no trace.
once() {
  local dir=$1
  shift
  if [ -e "$dir/.complete" ]; then return; fi
  rm -rf "$dir"
  mkdir -p "$dir"
  "$@" "$dir" >&2
  touch "$dir/.complete"
}

# venv REQUIREMENTS DIR: a Python virtual environment.
venv() {
  python3 -m venv "$2"
  "$2/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$1"
}

# need_python: python3 with venv, which Debian packs apart.
need_python() {
  need python3 python3 python3-venv
  if ! python3 -c 'import ensurepip' >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
      DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >&2
    else
      echo "python3-venv is missing; as root on Debian: apt-get install python3-venv" >&2
      exit 1
    fi
  fi
}
