"""The engine is exactly the version that the binding was written for."""

import ctypes
import importlib.metadata
import re
import tomllib
from pathlib import Path

from wasm_sandboxer.engine.wasmtime import binding

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_the_installed_one() -> None:
    assert importlib.metadata.version("wasmtime") == binding.VERSION


def test_the_version_is_the_pinned_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [text for text in project["dependencies"] if text.startswith("wasmtime")]
    assert pinned == [f"wasmtime =={binding.VERSION}"]


def test_the_lock_files_pin_it_too() -> None:
    for name in ("dev", "runtime"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert re.findall(r"^wasmtime==(\S+)", text, re.MULTILINE) == [binding.VERSION]


def test_values_have_the_sizes_that_the_thunks_step_by() -> None:
    assert ctypes.sizeof(binding.ffi.wasmtime_val_raw_t) == 16
    assert ctypes.sizeof(binding.ffi.wasmtime_val_t) == 32


def test_only_the_binding_and_its_neighbours_import_the_package() -> None:
    importers = {
        path.relative_to(ROOT / "src" / "wasm_sandboxer").parts[:2]
        for path in (ROOT / "src" / "wasm_sandboxer").rglob("*.py")
        if re.search(r"^\s*(import|from) wasmtime\b", path.read_text(), re.MULTILINE)
    }
    assert importers == {("engine", "wasmtime")}
