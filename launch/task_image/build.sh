#!/usr/bin/env bash
# Builds the image that tasks' scripts run in.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: launch/task_image/build.sh [options]

Builds the image of the docker sandbox (launch/task_image/Dockerfile). Running
it again costs a second when nothing has changed.

  --target cpu|torch   what to build (default cpu); torch adds torch to cpu
  --tag NAME           the image's name (default mlagent_jax/task:TARGET)
  --base IMAGE         base image, any Debian with python3, pip and venv
  --wheels DIR         a folder of wheels to take torch from
  --torch-index URL    the package index to take torch from
  --help

Without --base it takes python:3.11-slim, pulled if need be. Where no image
registry is reachable it makes a base from Debian packages with debootstrap
(needs root or sudo, and installs debootstrap with apt-get if it is missing),
once, as mlagent_jax/base:bookworm.

Environment:
  DEBIAN_MIRROR          mirror for debootstrap (default: debootstrap's own)
  CA_BUNDLE              CA certificates for pip inside the build (default:
                         PIP_CERT, SSL_CERT_FILE or the system's bundle)
  PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, and proxies (HTTP_PROXY, ...) are passed
  on to the build.
HELP
}

say() { printf 'build: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
target=cpu tag='' base='' wheels='' torch_index=''
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --target | --tag | --base | --wheels | --torch-index)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case "$1" in
        --target) target=$2 ;;
        --tag) tag=$2 ;;
        --base) base=$2 ;;
        --wheels) wheels=$2 ;;
        --torch-index) torch_index=$2 ;;
      esac
      shift 2
      ;;
    *) usage >&2; exit 2 ;;
  esac
done
case "$target" in cpu | torch) ;; *) fail "no target '$target': cpu or torch" ;; esac
tag=${tag:-mlagent_jax/task:$target}
own_base=mlagent_jax/base:bookworm

docker version >/dev/null 2>&1 ||
  fail 'no Docker engine answers: launch/docker_engine.sh starts one'

scratch=$(mktemp -d)
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
trap '"${sudo[@]}" rm -rf "$scratch"' EXIT

make_own_base() {
  if docker image inspect "$own_base" >/dev/null 2>&1; then
    say "base: $own_base, made earlier"
    return
  fi
  if ! command -v debootstrap >/dev/null; then
    command -v apt-get >/dev/null ||
      fail 'no registry, no debootstrap and no apt-get: give --base IMAGE'
    say 'installing debootstrap with apt-get'
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
      --no-install-recommends debootstrap >/dev/null
  fi
  say "making $own_base from Debian packages (about a minute)"
  "${sudo[@]}" debootstrap --variant=minbase \
    --include=python3,python3-venv,ca-certificates,libgomp1 \
    bookworm "$scratch/root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
    >"$scratch/debootstrap.log" 2>&1 || {
    tail -n 15 "$scratch/debootstrap.log" >&2
    fail 'debootstrap failed: the end of its log is above'
  }
  "${sudo[@]}" tar -C "$scratch/root" --exclude='./var/cache/apt/*' \
    --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' \
    --exclude='./usr/share/locale/*' --exclude='./usr/share/man/*' \
    --exclude='./dev/*' -c . | docker import - "$own_base" >/dev/null
}

if [ -z "$base" ]; then
  base=python:3.11-slim
  if docker image inspect "$base" >/dev/null 2>&1; then
    say "base: $base, here already"
  elif docker image inspect "$own_base" >/dev/null 2>&1; then
    base=$own_base
    say "base: $own_base, made earlier"
  elif docker pull --quiet "$base" >/dev/null 2>"$scratch/pull.log"; then
    say "base: $base, pulled"
  else
    say "no $base to be had: $(tail -n 1 "$scratch/pull.log")"
    base=$own_base
    make_own_base
  fi
fi

context=$scratch/context
mkdir "$context"
cp "$here"/{Dockerfile,requirements.txt,requirements-torch.txt,strip_data.py} \
  "$context"
for bundle in "${CA_BUNDLE:-}" "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" \
  /etc/ssl/certs/ca-certificates.crt; do
  if [ -n "$bundle" ] && [ -s "$bundle" ]; then
    cp "$bundle" "$context/ca-certificates.crt"
    break
  fi
done
if [ -n "$wheels" ]; then
  found=$(find "$wheels" -maxdepth 1 -name '*.whl' | wc -l)
  [ "$found" -gt 0 ] || fail "no wheels in $wheels"
  find "$wheels" -maxdepth 1 -name '*.whl' -exec cp {} "$context" \;
  say "with $found wheels from $wheels"
fi

arguments=(--build-arg "BASE=$base")
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL HTTP_PROXY HTTPS_PROXY NO_PROXY \
  http_proxy https_proxy no_proxy; do
  [ -z "${!name:-}" ] || arguments+=(--build-arg "$name=${!name}")
done
[ -z "$torch_index" ] ||
  arguments+=(--build-arg "TORCH_INDEX_URL=$torch_index")

say "building $tag (target $target)"
docker build --network host --target "$target" --tag "$tag" \
  "${arguments[@]}" "$context" >"$scratch/build.log" 2>&1 || {
  tail -n 30 "$scratch/build.log" >&2
  fail 'docker build failed: the end of its log is above'
}
read -r identity size <<<"$(docker image inspect \
  --format '{{.Id}} {{.Size}}' "$tag")"
say "$tag is $identity, $((size / 1000000)) MB"
