"""Compiled programs in a folder: whose it is, what it holds, and when a CPU may read it."""

import dataclasses
import os
import subprocess
import sys
import time
import zlib

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rlhf_jax.errors import ConfigError
from rlhf_jax.parallel import compile_cache
from rlhf_jax.parallel.compile_cache import key, use, user_folder
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.runs.run import Run
from tests.small_run import config

FOLDER = "jax_compilation_cache_dir"


def kept_in() -> str | None:
    return jax.config.jax_compilation_cache_dir


def give(folder: str | None) -> None:
    """As a caller, or a process's environment, gives JAX a folder."""
    jax.config.update(FOLDER, folder)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A user's empty cache directory, and no folder given to JAX."""
    before, compile_cache_says = kept_in(), compile_cache._say
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    give(None)
    compile_cache_says.cache_clear()
    yield
    give(before)


@pytest.fixture
def folder():
    """Of this user, as a first command makes it."""
    use("auto")
    return user_folder() / key()


def entries(folder):
    return sorted(path.name for path in folder.glob("*-cache"))


def test_a_second_process_reads_what_the_first_has_compiled(folder):
    assert kept_in() == str(folder)
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    cube = lambda: jax.jit(lambda x: x @ x @ x).lower(np.ones((3, 3), np.float32)).compile()
    cube()
    assert len(entries(folder)) == 2 and not (folder / "usable").exists()
    give(None)
    jax.clear_caches()
    use("auto")
    assert (folder / "usable").exists() and kept_in() == str(folder)
    hits, listen = [], lambda event, **labels: hits.append(event)
    jax.monitoring.register_event_listener(listen)
    cube()
    jax.monitoring.unregister_event_listener(listen)
    assert compile_cache.HIT in hits and len(entries(folder)) == 2


def test_a_cpu_that_can_read_is_not_tried_again(folder, monkeypatch):
    (folder / "usable").touch()
    monkeypatch.setattr(compile_cache, "probe", None)
    give(None)
    use("auto")
    assert kept_in() == str(folder)


@pytest.mark.parametrize(
    "hit, said",
    [(False, ""), (True, "is not  supported on the host machine")],
    ids=["miss", "complaint"],
)
def test_a_cpu_that_cannot_read_what_was_written_keeps_nothing(
    hit, said, folder, monkeypatch, capsys
):
    for _ in range(2):
        give(None)
        with monkeypatch.context() as patch:
            patch.setattr(compile_cache, "probe", lambda: (hit, said))
            use("auto")
        assert kept_in() is None and entries(folder) == []
    told = capsys.readouterr().err.splitlines()
    assert told == ["compiled programs are not kept for later commands: a program that an earlier "
                    "process has compiled cannot be read on this CPU"]  # fmt: skip


def test_with_other_flags_the_first_process_compiles_the_probe_anew(folder, monkeypatch):
    def probe():
        (folder / "jit_rlhf_jax_probe-of_other_flags-cache").write_bytes(zlib.compress(b"program"))
        return False, ""

    give(None)
    monkeypatch.setattr(compile_cache, "probe", probe)
    use("auto")
    assert kept_in() == str(folder) and len(entries(folder)) == 2


def test_a_first_process_that_writes_nothing_has_tried_nothing(monkeypatch):
    monkeypatch.setattr(compile_cache, "probe", lambda: (False, ""))  # the disk is full
    use("auto")
    assert kept_in() == str(user_folder() / key())


def test_a_start_removes_what_a_kill_has_cut_short_once(folder):
    whole = zlib.compress(b"program" * 100)
    contents = {"a": whole, "b": whole[:-1], "c": b"", "d": b"no program"}
    for name, content in contents.items():
        (folder / f"{name}-cache").write_bytes(content)
    (folder / "e-cache").write_bytes(whole[:-1])
    os.utime(folder / "e-cache", (0, 0))  # checked at an earlier start
    give(None)
    use("auto")
    assert {"a-cache", "e-cache"} == {n for n in entries(folder) if len(n) < 10}
    zstandard = pytest.importorskip("zstandard")
    content = zstandard.ZstdCompressor().compress(b"program" * 100)
    assert compile_cache._whole(content)
    assert not compile_cache._whole(content[:-1]) and not compile_cache._whole(content[:4])


def test_a_start_makes_room_by_the_oldest_programs_of_all_versions(folder, monkeypatch):
    (other := folder.parent / "jaxlib-0.1").mkdir()
    now = time.time()
    for place, age in ((other, 400), (folder, 300), (other, 200), (folder, 100)):
        entry = place / f"{age}-cache"
        entry.write_bytes(bytes(1000))
        os.utime(entry, (now - age, now - age))
    for entry in folder.glob("jit*"):
        entry.unlink()
    monkeypatch.setattr(compile_cache, "LARGEST", 2500)
    give(None)
    monkeypatch.setattr(compile_cache, "_whole", lambda content: True)
    (folder / "usable").touch()
    use("auto")
    assert entries(other) == ["200-cache"] and entries(folder) == ["100-cache"]


def test_a_folder_that_others_can_read_is_not_used(folder, capsys):
    folder.chmod(0o750)
    give(None)
    use("auto")
    assert kept_in() is None
    assert f"{folder}: expected a folder of this user with mode 0700" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_to_is_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    use("auto")
    assert kept_in() is None and len(capsys.readouterr().err.splitlines()) == 1


def test_the_setting_moves_it_or_turns_it_off(tmp_path):
    give(given := str(tmp_path / "given"))
    use("auto")
    assert kept_in() == given
    use(None)
    assert kept_in() == given
    use(str(tmp_path / "moved"))
    assert kept_in() == str(tmp_path / "moved" / key())
    give(None)
    use("auto")
    use(None)
    assert kept_in() is None


@pytest.mark.parametrize("value", ["", "gs://bucket/cache"])
def test_a_setting_that_is_no_folder_names_the_field(value):
    with pytest.raises(ConfigError, match="compile_cache"):
        ParallelConfig(compile_cache=value)


def test_a_run_uses_the_setting_of_its_config(monkeypatch, tmp_path):
    class Used(Exception):
        pass

    def used(setting):
        raise Used(setting)

    monkeypatch.setattr(compile_cache, "use", used)
    with pytest.raises(Used, match="there"):
        Run(dataclasses.replace(config, parallel=ParallelConfig(compile_cache="there")))


@pytest.mark.slow
def test_two_real_processes():
    code = "from rlhf_jax.parallel import compile_cache as c; c.use('auto'); print(c.probe())"
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    for expected in ("True", "True"):  # the first has compiled it in `use`
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"({expected}, '')\n"
    assert (user_folder() / key() / "usable").exists()
