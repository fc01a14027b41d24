#!/usr/bin/env bash
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
# One command on a set of GPU nodes, a process for each GPU:
#
#   sbatch --nodes 4 launch/slurm.sh COMMAND EXPERIMENT --out FOLDER [--field value ...]
#
# from a folder where `pip install '.[cuda]'` has put rlhf-jax on the PATH; FOLDER lies on a file
# system that all nodes share. Two minutes before its end the job gets SIGTERM and saves; put back
# into the queue, it goes on where it was.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '8,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
exec srun --kill-on-bad-exit=1 rlhf-jax "$@" --parallel.coordinator auto
