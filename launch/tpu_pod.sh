#!/usr/bin/env bash
# One pretraining run on a Cloud TPU pod, started again until it is complete:
#   launch/tpu_pod.sh NAME ZONE TYPE CONFIG WORKDIR [--config.key=value ...]
#   launch/tpu_pod.sh medclip us-west4-a v5litepod-64 configs/radtex.py /mnt/medclip/runs/radtex
# Asks for the pod NAME as a queued resource, copies this checkout to all its workers, installs it, and
# runs the same command on all. A preempted pod is asked for again. WORKDIR is a folder that all workers
# share. Ctrl-C (SIGTERM) stops the run, which saves. Environment:
#   TPU_SETUP     a command for each new worker, such as one that mounts the shared folder
#   TPU_FLAGS     of "queued-resources create" (default: --spot)
#   TPU_RUNTIME   version of the TPU's software (default: by TYPE)
#   MAX_RESTARTS  starts after faults (default: 100; preemptions do not count)
set -euo pipefail

refuse() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

[ $# -ge 5 ] || refuse "usage: launch/tpu_pod.sh NAME ZONE TYPE CONFIG WORKDIR [--config.key=value ...]"
name=$1 zone=$2 type=$3 workdir=$5
shift 3
[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || refuse "NAME is $name: give lower-case letters, digits and dashes"
[[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || refuse "ZONE is $zone: give one such as us-west4-a"
[[ $workdir == /* ]] || refuse "WORKDIR is $workdir: give the absolute path of a folder that all workers share"
case $type in
  v4-*) runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  *) refuse "TYPE is $type: give one such as v5litepod-256, v5p-128, v6e-64 or v4-32" ;;
esac
runtime=${TPU_RUNTIME:-$runtime}
command -v gcloud >/dev/null || refuse "gcloud not found: install the Google Cloud CLI"
root=$(cd "$(dirname "$0")/.." && pwd)
printf -v arguments '%q ' "$@"

tpus() {
  gcloud compute tpus "$@" --zone="$zone"
}

on_workers() { # most workers say nothing for hours, and idle connections are cut
  tpus tpu-vm ssh "$name" --worker=all --ssh-flag=-oServerAliveInterval=60 --command="$1"
}

pod_state() {
  tpus queued-resources list --filter="name~/$name\$" --format='value(state.state)'
}

# Returns when the pod is there; `installed` is empty where it is another than before.
get_pod() {
  local state
  while true; do
    state=$(pod_state) || state=UNKNOWN # a fault of the network, most likely
    case $state in
      ACTIVE)
        had_one=yes
        return
        ;;
      "")
        installed=""
        # shellcheck disable=SC2086 # several flags, or none
        tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
          --runtime-version="$runtime" ${TPU_FLAGS---spot} || [ -n "$had_one" ] || exit 1
        ;;
      SUSPENDING | SUSPENDED | FAILED)
        echo "tpu_pod.sh: the pod is $state: asking for another" >&2
        installed=""
        tpus queued-resources delete "$name" --force --quiet || true # not while it is SUSPENDING
        ;;
    esac
    sleep 30
  done
}

# The TPU's own Python may be older than the 3.11 that we need, so uv brings one.
install_package() {
  git -C "$root" ls-files -z --cached --others --exclude-standard |
    tar --create --gzip --file="$archive" --directory="$root" --null --files-from=- &&
    tpus tpu-vm scp "$archive" "$name:medclip_jax.tar.gz" --worker=all &&
    on_workers "rm -rf medclip_jax && mkdir medclip_jax && tar xzf medclip_jax.tar.gz -C medclip_jax &&
      cd medclip_jax && python3 -m pip install --quiet --user uv &&
      ~/.local/bin/uv venv --quiet --python 3.11 .venv &&
      ~/.local/bin/uv pip install --quiet --constraint requirements.lock '.[tpu]'" &&
    on_workers "${TPU_SETUP:-true}" && installed=yes
}

# Runs the command on all workers; the status is that of the first worker whose command failed. What
# an earlier start has left is ended: it holds the TPU. gcloud also starts the command a second time
# on a worker whose connection broke.
run_once() {
  local status=0
  on_workers "pkill -KILL -F medclip_jax.pid python 2>/dev/null; echo \$\$ >medclip_jax.pid
    cd medclip_jax && MEDCLIP_JAX_DISTRIBUTED=auto exec .venv/bin/python launch/pretrain.py $arguments" &
  connection=$!
  wait "$connection" || status=$?
  while kill -0 "$connection" 2>/dev/null; do # a signal ends `wait`, but not the command
    status=0
    wait "$connection" || status=$?
  done
  connection=""
  return "$status"
}

stop() {
  stopping=yes
  [ -n "$connection" ] || exit 143
  on_workers "pkill -TERM -F medclip_jax.pid python" || true
}

installed="" had_one="" connection="" stopping="" failures=0
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
trap stop TERM INT
pod_state >/dev/null # ends here where gcloud is not set up
while true; do
  get_pod
  status=0
  if [ -z "$installed" ]; then install_package || status=1; fi
  if [ "$status" -eq 0 ]; then run_once || status=$?; fi
  if [ -n "$stopping" ]; then exit 143; fi
  case $status in
    0)
      echo "tpu_pod.sh: complete; the pod costs until you delete it: gcloud compute tpus" \
        "queued-resources delete $name --force --zone=$zone" >&2
      exit 0
      ;;
    2) exit 2 ;;  # a mistake, which stays one
    75) ;;        # stopped, as at a preemption, and saved
    *)
      failures=$((failures + 1))
      if [ "$failures" -gt "${MAX_RESTARTS:-100}" ]; then
        echo "tpu_pod.sh: status $status after ${MAX_RESTARTS:-100} restarts: giving up" >&2
        exit "$status"
      fi
      ;;
  esac
  echo "tpu_pod.sh: ended with status $status: starting again" >&2
  sleep 30
done
