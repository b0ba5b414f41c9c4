#!/usr/bin/env bash
# Makes a Docker engine answer on this machine.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: launch/docker_engine.sh [--help]

Makes a Docker engine answer on a Debian or Ubuntu machine, for the docker
sandbox and for CI. Does nothing if one answers already. Otherwise it installs
the distribution's engine (apt-get install docker.io) if there is none, starts
it (by systemd where that runs, else as a detached process of its own), and
waits until it answers. Needs root or sudo for whatever is missing.

Environment:
  DOCKER_HOST           the engine to ask for (default: the local socket); a
                        remote one is only asked, never started
  DOCKERD_LOG           log of a detached engine (/var/log/dockerd.log)
  DOCKERD_WAIT_SECONDS  how long to wait for an answer (60)
HELP
}

say() { printf 'docker_engine: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  '') ;;
  *) usage >&2; exit 2 ;;
esac

log="${DOCKERD_LOG:-/var/log/dockerd.log}"
wait_seconds="${DOCKERD_WAIT_SECONDS:-60}"
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)

version() { docker version --format '{{.Server.Version}}' 2>/dev/null; }

# An engine that is there and refuses this user is a question of rights.
socket_refuses_us() {
  [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ] &&
    "${sudo[@]}" docker version >/dev/null 2>&1
}

wait_for_answer() {
  local deadline=$((SECONDS + wait_seconds))
  until version >/dev/null; do
    if socket_refuses_us; then
      fail "an engine runs, but $(id -un) may not use its socket:" \
        "sudo usermod -aG docker $(id -un), then log in again"
    fi
    # A detached engine that has ended will not answer any more.
    if [ -n "${1:-}" ] && ! "${sudo[@]}" kill -0 "$1" 2>/dev/null; then
      return 1
    fi
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.3
  done
}

if command -v docker >/dev/null && answer=$(version); then
  say "engine $answer answers; nothing to do"
  exit 0
fi
case "${DOCKER_HOST:-unix:///var/run/docker.sock}" in
  unix:///var/run/docker.sock | unix:///run/docker.sock) ;;
  *) fail "the engine at DOCKER_HOST=$DOCKER_HOST does not answer" ;;
esac

if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
  command -v apt-get >/dev/null ||
    fail 'no Docker engine and no apt-get: install one by hand'
  say 'installing docker.io with apt-get'
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends docker.io >/dev/null
fi

if [ -d /run/systemd/system ]; then
  say 'starting docker.service'
  "${sudo[@]}" systemctl start docker
  wait_for_answer || fail 'no answer: see journalctl -u docker'
else
  answered=no
  # An engine that was just killed may still be in the way of the first one.
  for attempt in 1 2 3; do
    say "starting dockerd (attempt $attempt), log in $log"
    # A session of its own and no open files of ours: it outlives this shell.
    # shellcheck disable=SC2016 # expanded by the inner shell
    pid=$("${sudo[@]}" bash -c \
      'setsid nohup dockerd </dev/null >>"$0" 2>&1 & echo $!' "$log")
    if wait_for_answer "$pid"; then
      answered=yes
      break
    fi
    ! "${sudo[@]}" kill -0 "$pid" 2>/dev/null || break
  done
  if [ "$answered" = no ]; then
    "${sudo[@]}" tail -n 15 "$log" >&2
    fail "dockerd does not answer after ${SECONDS} s: the end of $log is above"
  fi
fi
say "engine $(version) answers after ${SECONDS} s"
