#!/usr/bin/env bash
# One command on every host of TPU slices in a GKE cluster, as an XPK workload (pip install xpk):
#
#   launch/gke.sh CLUSTER TPU_TYPE IMAGE COMMAND EXPERIMENT --out FOLDER [--field value ...]
#
# IMAGE is a container image with this package installed: `pip install '.[tpu,gcs]'`. FOLDER is
# gs://BUCKET/NAME or a volume that all hosts share. The workload is named after FOLDER. After a
# preemption XPK restarts it, up to 10 times, and it resumes. Set XPK_ARGS for more xpk options.
set -euo pipefail
if [ $# -lt 5 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
cluster=$1 tpu=$2 image=$3
shift 3
folder=rlhf
for ((i = 1; i < $#; i++)); do
  if [ "${!i}" = --out ]; then next=$((i + 1)) && folder=$(basename "${!next}"); fi
done
# shellcheck disable=SC2086: XPK_ARGS may hold several options
xpk workload create ${XPK_ARGS:-} \
  --cluster="$cluster" --tpu-type="$tpu" --docker-image="$image" --max-restarts=10 \
  --workload="$(tr '[:upper:]_.' '[:lower:]--' <<<"$folder" | cut -c1-30)" \
  --command="rlhf-jax $(printf '%q ' "$@") --parallel.coordinator auto"
