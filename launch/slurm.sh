#!/usr/bin/env bash
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
# One command on several GPU nodes, with one process per GPU:
#
#   sbatch --nodes 4 launch/slurm.sh COMMAND EXPERIMENT --out FOLDER [--field value ...]
#
# Submit it where `pip install '.[cuda]'` has put rlhf-jax on the PATH. FOLDER is on a file system
# that all nodes share. Two minutes before its time limit the job gets SIGTERM and saves a
# checkpoint. When it is requeued, it resumes.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '8,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
exec srun --kill-on-bad-exit=1 rlhf-jax "$@" --parallel.coordinator auto
