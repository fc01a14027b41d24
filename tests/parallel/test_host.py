"""The allocator's settings are taken on glibc and left alone elsewhere."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rlhf_jax.parallel import host


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_glibc_takes_the_settings():
    code = "from rlhf_jax.parallel.host import keep_pages; print(keep_pages())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_every_setting_is_asked_for_and_must_be_taken(monkeypatch):
    asked = {}

    def library(refused):
        def mallopt(name, value):
            asked[name] = value
            return int(name != refused)

        return lambda _: SimpleNamespace(mallopt=mallopt)

    monkeypatch.setattr(ctypes, "CDLL", library(refused=None))
    assert host.keep_pages() is True
    assert asked == {-8: 1, -3: 2**31 - 1, -1: 2**31 - 1}
    monkeypatch.setattr(ctypes, "CDLL", library(refused=-3))
    assert host.keep_pages() is False


def test_a_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert host.keep_pages() is False


def test_no_c_library_is_no_error(monkeypatch):
    def absent(_):
        raise OSError("no library")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert host.keep_pages() is False
