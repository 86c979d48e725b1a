"""Where the store is unless somebody says it."""

import os
from pathlib import Path

import pytest

from wasm_sandboxer.cli.params import default_root
from wasm_sandboxer.errors import InvalidArgument


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An ordinary user with a home."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return monkeypatch


def test_root_keeps_modules_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == Path("/var/lib/wasm-sandboxer")


def test_a_user_keeps_modules_in_the_cache(user: pytest.MonkeyPatch) -> None:
    assert default_root() == Path("/home/me/.cache/wasm-sandboxer")
    user.setenv("XDG_CACHE_HOME", "relative")
    assert default_root() == Path("/home/me/.cache/wasm-sandboxer")
    user.setenv("XDG_CACHE_HOME", "/cache")
    assert default_root() == Path("/cache/wasm-sandboxer")


def test_a_user_without_a_home_is_told_what_to_do(user: pytest.MonkeyPatch) -> None:
    user.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user no passwd knows
    with pytest.raises(InvalidArgument, match=r"^you have no home to keep compiled modules in; choose .* --root$"):
        default_root()
