#!/usr/bin/env bash
# README's two commands on a fresh Debian: tests/fresh_system.sh bookworm|trixie [TESTS]
#
# debootstrap makes the system, a clean clone of HEAD goes into it, and `make demo` and `make test` run there as root with
# an empty home. With TESTS (paths, as for pytest) only these run, without the demo. Needs root and debootstrap.
# Registries are reached as from this machine: its mirror, proxies, certificates, and settings of pip and uv are taken over.
# Mounts and processes live in namespaces of their own, so they end with this script however it ends.
set -Eeuo pipefail
trap 'echo "$0: line $LINENO failed" >&2' ERR

suite=${1:-} tests=${2:-}
checkout=$(cd "$(dirname "$0")/.." && pwd)
include=ca-certificates,git,make,python3 # what README takes for granted, and certificates for this machine's registries

stop_with() { echo "$1" >&2; exit 2; }

# Runs in the namespaces.
make_system() {
  local mirror security path
  apt_uri() { apt-get indextargets --format '$(REPO_URI)' | sort -u | grep -m1 -E "/$1/?$" || echo "http://deb.debian.org/$1"; }
  mirror=$(apt_uri debian) security=$(apt_uri debian-security)
  # Container engines change how / is mounted, so it must be a mount.
  mkdir -p "$root" && mount --bind "$root" "$root"
  debootstrap --variant=minbase --include="$include" "$suite" "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || {
    tail -5 "$work/debootstrap.log" >&2
    stop_with "debootstrap could not make $suite from $mirror"
  }
  printf 'deb %s main\n' "$mirror $suite" "$mirror $suite-updates" "$security $suite-security" >"$root/etc/apt/sources.list"
  apt-config dump | grep -E '^Acquire::(https?|ftp|Retries|Check-)' >"$root/etc/apt/apt.conf.d/99-as-outside" || true
  cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
  # The network is this machine's, where podman may have a bridge with its usual addresses already.
  mkdir -p "$root/etc/containers/containers.conf.d"
  printf '[network]\ndefault_subnet = "10.213.0.0/24"\n' >"$root/etc/containers/containers.conf.d/subnet.conf"
  find /usr/local/share/ca-certificates -name '*.crt' -exec cp -L {} "$root/usr/local/share/ca-certificates/" \; 2>/dev/null || true
  for path in /etc/pip.conf /etc/uv/uv.toml ~/.config/pip/pip.conf ~/.pip/pip.conf ~/.config/uv/uv.toml; do
    [ ! -e "$path" ] || take_over "$path" "$root/${path/#$HOME//root}"
  done
  for path in /proc /sys /dev; do mount --rbind "$path" "$root$path"; done
  chroot "$root" update-ca-certificates >/dev/null 2>&1
  git clone -q "file://$checkout" "$root/root/mlflow-fargate"
}

# A file of settings with the folders that it names: packages of this machine, which are only read.
take_over() {
  mkdir -p "$(dirname "$2")" && cp -L "$1" "$2"
  show_folders <"$1" | while read -r folder; do show_inside "$folder"; done
}
show_folders() { { grep -oE '(file://)?/[^ ,"'\'']+' || true; } | sed 's,^file://,,' | while read -r path; do [ ! -d "$path" ] || echo "$path"; done; }
show_inside() {
  [ ! -e "$root$1" ] || return 0
  mkdir -p "$root$1" && mount --bind -o ro "$1" "$root$1"
}

# Leaves of the environment what reaching registries takes, with the files that it names.
clear_environment() {
  local name
  export HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  for name in $(compgen -e); do
    if [[ "${name,,}" =~ ^(home|lang|path)$ ]]; then
      continue
    elif [[ "${name,,}" =~ _proxy$|^pip_|^uv_|^ssl_|_ca_bundle$ ]]; then
      show_folders <<<"${!name}" | while read -r folder; do show_inside "$folder"; done
      [ ! -f "${!name}" ] || [ -e "$root${!name}" ] || { mkdir -p "$root$(dirname "${!name}")"; cp -L "${!name}" "$root${!name}"; }
    else
      unset "$name"
    fi
  done
}

# run NAME COMMAND: prints how it went, and how long it took.
run() {
  local began=$SECONDS status=0
  echo "$suite: $2"
  chroot "$root" bash -c "cd /root/mlflow-fargate && $2" >"$work/$1.log" 2>&1 || status=$?
  [ "$status" = 0 ] || tail -n 80 "$work/$1.log"
  echo "$suite: $1 exited with $status after $((SECONDS - began)) s$(grep -oE '[0-9]+ (passed|failed|error).* in .*s.*' "$work/$1.log" | tail -1 | sed 's/^/: /' || true)"
  return "$status"
}

inside() {
  local failed=0
  make_system
  echo "$suite: $(chroot "$root" python3 --version), $(git -C "$root/root/mlflow-fargate" log -1 --format='%h %s')"
  clear_environment
  if [ -n "$tests" ]; then
    run test "make test TESTS='$tests'" || failed=1
  else
    run demo "DEMO_EXIT=1 make demo" || failed=1
    run test "make test" || failed=1
  fi
  exit "$failed"
}

if [ "${FRESH_SYSTEM_WORK:-}" ]; then
  work=$FRESH_SYSTEM_WORK root=$FRESH_SYSTEM_WORK/root
  unset FRESH_SYSTEM_WORK
  inside
fi
[[ "$suite" =~ ^(bookworm|trixie)$ ]] || stop_with "usage: $0 bookworm|trixie [TESTS]"
[ "$(id -u)" = 0 ] || stop_with "root is needed, to make a system and to change into it"
command -v debootstrap >/dev/null || stop_with "debootstrap is not installed (apt-get install debootstrap)"
git -C "$checkout" diff --quiet HEAD || echo "$suite: changes that are not committed are left out" >&2
work=$(mktemp -d -t mlflow-fargate-fresh-XXXXXX)
child=
# The kernel ends what runs in the namespaces shortly after `unshare`; until then, new files can appear.
remove_work() {
  for _ in {1..50}; do
    rm -rf --one-file-system "$work" 2>/dev/null && return
    sleep 0.2
  done
  rm -rf --one-file-system "$work"
}
trap '[ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true; wait || true; remove_work' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
FRESH_SYSTEM_WORK=$work unshare --mount --pid --fork --kill-child --mount-proc bash "$0" "$suite" "$tests" &
child=$!
status=0
wait "$child" || status=$?
child=
exit "$status"
