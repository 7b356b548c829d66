#!/usr/bin/env bash
# Runs one command as N processes on this machine that form one JAX run over loopback:
#   launch/local.sh 2 medclip-jax pretrain --config configs/convirt.py:demo --workdir runs/two
# The first process that fails ends the others.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: launch/local.sh N COMMAND ..." >&2
  exit 2
fi
export JAX_NUM_PROCESSES=$1
shift
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=${JAX_COORDINATOR_ADDRESS:-localhost:$port}

processes=()
trap 'kill "${processes[@]}" 2>/dev/null || true' EXIT
trap 'kill -TERM "${processes[@]}"' TERM INT
for ((index = 0; index < JAX_NUM_PROCESSES; index++)); do
  JAX_PROCESS_ID=$index "$@" &
  processes+=($!)
done
for ((index = 0; index < JAX_NUM_PROCESSES; index++)); do
  wait -n
done
