#!/usr/bin/env bash
# Runs one command as N processes on this machine that form one JAX run over loopback:
#   launch/local.sh 2 medclip-jax pretrain --config configs/convirt.py:demo --workdir runs/two
# Process I takes GPU I, where there are GPUs. The first process that fails ends the others, and its
# status is the script's. SIGTERM and Ctrl-C reach every process as SIGTERM; the script waits for all.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh N COMMAND ..., with N processes" >&2
  exit 2
fi
export JAX_NUM_PROCESSES=$1
shift
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=${JAX_COORDINATOR_ADDRESS:-localhost:$port}

processes=()
signal_all() {
  for process in "${processes[@]}"; do
    kill "-$1" "$process" 2>/dev/null || true
  done
}

# JAX's processes catch SIGTERM to save at a common step, which they cannot without the failed one.
end_all() {
  signal_all TERM
  for _ in {1..50}; do
    [ -n "$(jobs -rp)" ] || return 0
    sleep 0.1
  done
  signal_all KILL
  wait
}

trap 'signal_all TERM' TERM INT
for ((index = 0; index < JAX_NUM_PROCESSES; index++)); do
  JAX_PROCESS_ID=$index JAX_LOCAL_DEVICE_IDS=$index "$@" &
  processes+=($!)
done

for ((running = JAX_NUM_PROCESSES; running > 0; )); do
  status=0
  wait -n -p finished || status=$?
  [ -n "${finished:-}" ] || continue # a signal was handed on; the processes have not ended yet
  running=$((running - 1))
  if [ "$status" -ne 0 ]; then
    echo "launch/local.sh: a process ended with status $status, so the others are ended" >&2
    end_all
    exit "$status"
  fi
done
