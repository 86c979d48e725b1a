"""A plugin for WasmEdge, made for tests: it calls itself wasi_nn and tells how long what --nn-preload says is."""

import os
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("plugin.c")
_CACHE = Path(__file__).parents[2] / ".cache" / "zig"

# Exits with that length.
PRELOADED = """(module
  (import "wasi_nn" "loaded" (func $loaded (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $proc_exit (call $loaded))))"""


def build(folder: Path) -> Path:
    """Put the plugin into the folder, which WasmEdge can then be given."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # WasmEdge is run by others than root
    caches = {"ZIG_LOCAL_CACHE_DIR": str(_CACHE), "ZIG_GLOBAL_CACHE_DIR": str(_CACHE)}
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror",
         "-o", folder / "libtest.so", _SOURCE],
        env=os.environ | caches, check=True, capture_output=True,
    )  # fmt: skip
    return folder
