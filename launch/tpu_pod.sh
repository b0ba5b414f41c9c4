#!/usr/bin/env bash
# One training run on a TPU VM pod: create, install, run, logs, stop, delete.
#
#   launch/tpu_pod.sh create            reserves and starts the pod
#   launch/tpu_pod.sh install           this checkout and JAX, on every worker
#   launch/tpu_pod.sh run               trains, on every worker, detached
#   launch/tpu_pod.sh logs              follows worker 0
#   launch/tpu_pod.sh stop              SIGTERM: saves a checkpoint, ends
#   launch/tpu_pod.sh delete            gives the pod back
#
# With --dry-run as the last argument it prints the commands instead.
#
# Environment: PROJECT, ZONE, NAME, ACCELERATOR (v5litepod-16), RUNTIME
# (v2-alpha-tpuv5-lite), SPOT (1 for a spot pod), SHARED (host:/export of an
# NFS server, such as Filestore, mounted at /mnt/runs on every worker), CONFIG
# (configs/qwen25_7b_sft.py), RUN (name of the work directory), OVERRIDES
# (such as '--config.sft.steps=100').
#
# A pod is billed by the chip-hour from its creation to `delete`, busy or not:
# 16 v5e chips for a weekend are 768 chip-hours. So is the NFS server.
set -euo pipefail

usage() { sed -n '2,22s/^# \{0,1\}//p' "$0"; }

command="${1:-}"
dry=""
[ "${2:-}" = --dry-run ] && dry=1

PROJECT="${PROJECT:-}"
ZONE="${ZONE:-us-west4-a}"
NAME="${NAME:-mlagent}"
ACCELERATOR="${ACCELERATOR:-v5litepod-16}"
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}"
SPOT="${SPOT:-}"
SHARED="${SHARED:-}"
CONFIG="${CONFIG:-configs/qwen25_7b_sft.py}"
RUN="${RUN:-$(basename "$CONFIG" .py)}"
OVERRIDES="${OVERRIDES:-}"
root="$(cd "$(dirname "$0")/.." && pwd)"

need() {
  for name in "$@"; do
    [ -n "${!name}" ] || { echo "$name is not set; see the top of $0" >&2; exit 2; }
  done
}

run() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

on_all() {
  run gcloud compute tpus tpu-vm ssh "$NAME" --project="$PROJECT" \
    --zone="$ZONE" --worker="${2:-all}" --command="$1"
}

case "$command" in
  create)
    need PROJECT
    spot=()
    [ -z "$SPOT" ] || spot=(--spot)
    run gcloud compute tpus queued-resources create "$NAME" \
      --project="$PROJECT" --zone="$ZONE" --node-id="$NAME" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${spot[@]}"
    run gcloud compute tpus queued-resources describe "$NAME" \
      --project="$PROJECT" --zone="$ZONE"
    ;;
  install)
    need PROJECT SHARED
    archive="$(mktemp -d)/mlagent_jax.tar.gz"
    run git -C "$root" archive --format=tar.gz --output="$archive" HEAD
    run gcloud compute tpus tpu-vm scp "$archive" "$NAME:mlagent_jax.tar.gz" \
      --project="$PROJECT" --zone="$ZONE" --worker=all
    on_all "set -e; sudo apt-get update -qq; \
sudo apt-get install -y -qq bubblewrap nfs-common python3-venv; \
sudo mkdir -p /mnt/runs; mountpoint -q /mnt/runs \
|| sudo mount -t nfs -o vers=3,hard $SHARED /mnt/runs; \
mkdir -p mlagent_jax; tar -xzf mlagent_jax.tar.gz -C mlagent_jax; \
cd mlagent_jax; python3 -m venv .venv; \
.venv/bin/pip install --quiet -e '.[tpu]'"
    ;;
  run)
    need PROJECT
    # JAX finds the other workers by the metadata of the pod.
    on_all "cd mlagent_jax; nohup .venv/bin/python -m mlagent_jax.train --config=$CONFIG \
--workdir=/mnt/runs/$RUN $OVERRIDES > train.log 2>&1 < /dev/null & \
echo \$! > train.pid"
    ;;
  logs)
    need PROJECT
    on_all 'tail -n 100 -F mlagent_jax/train.log' 0
    ;;
  stop)
    need PROJECT
    # shellcheck disable=SC2016 # expanded there
    on_all 'kill -TERM "$(cat mlagent_jax/train.pid)"'
    ;;
  delete)
    need PROJECT
    run gcloud compute tpus queued-resources delete "$NAME" \
      --project="$PROJECT" --zone="$ZONE" --force --quiet
    ;;
  *)
    usage
    exit 2
    ;;
esac
