"""Equal bits on GPUs: what a run with `deterministic` asks of XLA, and where programs are kept."""

import dataclasses

import jax
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.parallel import compile_cache, processes
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.runs.run import Run
from tests.small_run import config

FIXED = ParallelConfig(deterministic=True, compile_cache="there")
OTHER, ASKED = "--xla_cpu_enable_fast_math=false", "--xla_gpu_exclude_nondeterministic_ops=true"


@pytest.mark.parametrize(
    "parallel, before, after",
    [
        (FIXED, None, ASKED),
        (FIXED, OTHER, f"{OTHER} {ASKED}"),
        (FIXED, f"{ASKED} {OTHER}", f"{ASKED} {OTHER}"),
        (ParallelConfig(), OTHER, OTHER),
    ],
)
def test_xla_gets_the_flag_beside_those_that_are_given(monkeypatch, parallel, before, after):
    if before is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", before)
    processes.start(parallel)
    assert processes.os.environ["XLA_FLAGS"] == after


@pytest.mark.parametrize("backend", ["gpu", "cpu"])
def test_on_gpus_programs_are_kept_in_the_run_s_directory(monkeypatch, backend, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    expected = str(tmp_path / ".programs") if backend == "gpu" else "there"
    assert compile_cache.folder_of(FIXED, tmp_path) == expected
    asked = dataclasses.replace(FIXED, deterministic=False)
    assert compile_cache.folder_of(asked, tmp_path) == "there"


def test_a_directory_that_is_no_disk_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match=r"out = 'gs://bucket/run': must be a folder of a disk"):
        compile_cache.folder_of(FIXED, "gs://bucket/run")


def test_a_run_keeps_them_in_its_own(monkeypatch, tmp_path):
    class Used(Exception):
        pass

    def used(setting):
        raise Used(setting)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(compile_cache, "use", used)
    with pytest.raises(Used, match=str(tmp_path / ".programs")):
        Run(dataclasses.replace(config, out=str(tmp_path), parallel=FIXED))
