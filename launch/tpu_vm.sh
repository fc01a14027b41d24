#!/usr/bin/env bash
# One command on every worker of a Cloud TPU slice:
#
#   launch/tpu_vm.sh SLICE ZONE COMMAND EXPERIMENT --out FOLDER [--field value ...]
#
# It copies this repository to all workers, installs it there, and starts the same
# `rlhf-jax COMMAND EXPERIMENT ...` on each. FOLDER is gs://BUCKET/NAME or a folder that all workers
# share (Filestore). After a preemption call it again: the run resumes.
set -euo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
slice=$1 zone=$2
shift 2
cd "$(dirname "$0")/.."

archive=$(mktemp -d)/rlhf_jax.tgz
tar czf "$archive" setup.py README.md rlhf_jax experiments
workers() { gcloud compute tpus tpu-vm "$@" --zone="$zone" --worker=all; }
workers scp "$archive" "$slice:rlhf_jax.tgz"
workers ssh "$slice" --command="
  mkdir -p rlhf_jax && tar xzf rlhf_jax.tgz -C rlhf_jax && cd rlhf_jax &&
  python3 -m venv .venv && .venv/bin/pip install --quiet '.[tpu,gcs]'"
workers ssh "$slice" --command="
  cd rlhf_jax && .venv/bin/rlhf-jax $(printf '%q ' "$@") --parallel.coordinator auto"
