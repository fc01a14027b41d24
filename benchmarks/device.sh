#!/usr/bin/env bash
# What a GPU has to show, in at most SECONDS_IN_ALL (600): the kernel's tests, then SFT and PPO
# beside PyTorch (PPO's peer needs trl 1.12.0), generation, slots beside all rows, the cost of
# `deterministic`, a run with it that is killed once and must end as one that is not, and, where
# seconds are left, steps of a reward model and of DPO. The results go to OUT (runs/bench).
#   PYTHON=python3 PEER=python3 bash benchmarks/device.sh
PYTHON=${PYTHON:-.venv/bin/python} PEER=${PEER:-} OUT=${OUT:-runs/bench}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-600}
mkdir -p "$OUT"
job() { # name, least and most seconds, command
  local name=$1 least=$2 most=$3 left=$((SECONDS_IN_ALL - SECONDS))
  shift 3
  if [ "$left" -lt "$least" ]; then
    echo "$name: left out, $left seconds are left"
    return
  fi
  echo "$name: from second $SECONDS"
  timeout -k 5 "$((left < most ? left : most))" "$@" 2>&1 | tee "$OUT/$name.log"
}
speed() { # name, work, size, least and most seconds, options
  local name=$1 work=$2 size=$3 least=$4 most=$5
  shift 5
  job "$name" "$least" "$most" "$PYTHON" benchmarks/speed.py --works "$work" --sizes "$size" \
    --out "$OUT/$name.json" "$@"
}
peer=()
if [ -n "$PEER" ]; then peer=(--peer-python "$PEER"); fi
JAX_PLATFORMS=cuda job kernel 20 120 "$PYTHON" -m pytest -q -m '' tests/models/test_fused.py
speed sft-small sft small 40 120 --rounds 3 --times 4 "${peer[@]}"
speed sft-1b3 sft 1b3 50 150 --rounds 2 --times 4 "${peer[@]}"
speed sft-1b3-unrolled sft 1b3 50 120 --times 4 --changes '{"scan_layers": false}'
speed generation-small generation small 40 90 --times 2
speed ppo-small ppo small 60 150 --times 2 "${peer[@]}"
job slots-small 40 90 "$PYTHON" benchmarks/slots.py --size gpt2 --rows 256 --prompt 256 \
  --response 256 --mean 64 --slots 64 128 --pieces 4 --out "$OUT/slots-small.json"
XLA_FLAGS=--xla_gpu_exclude_nondeterministic_ops=true speed ppo-small-deterministic ppo small \
  60 120 --times 2
fixed() { # name of the run, least and most seconds
  job "fixed-$1" "$2" "$3" "$PYTHON" -m rlhf_jax.cli run tests/small_run.py \
    --parallel.deterministic True --out "$OUT/fixed-$1"
}
fixed whole 60 120
if [ $((SECONDS_IN_ALL - SECONDS)) -gt 80 ]; then
  timeout -s KILL 45 "$PYTHON" -m rlhf_jax.cli run tests/small_run.py \
    --parallel.deterministic True --out "$OUT/fixed-killed"
fi
fixed killed 30 120
job fixed-doctor 10 30 "$PYTHON" -m rlhf_jax.cli doctor "$OUT/fixed-whole" "$OUT/fixed-killed"
speed reward-small reward small 45 80 --rounds 1 --times 4
speed dpo-small dpo small 45 80 --rounds 1 --times 4
