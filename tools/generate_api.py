"""Write src/wasm_sandboxer/api/*_pb2.py and .pyi from proto/, or check that they are in step with it.

Owns the generated files alone: what is written by hand in api/ stays as it is. There are no *_pb2_grpc
files, because both transports register their methods by the table in api/services.py.

    ./dev proto            write
    ./dev proto --check    exit 1 if writing would change anything
"""

import argparse
import difflib
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROJECT = Path(__file__).resolve().parent.parent
PROTO = PROJECT / "proto"
SOURCE = PROJECT / "src"
API = Path("wasm_sandboxer/api")


def generate() -> dict[str, str]:
    """The generated files' names and contents."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        protos = sorted(str(path) for path in (PROTO / API).glob("*.proto"))
        well_known = resources.files("grpc_tools") / "_proto"
        arguments = [f"-I{PROTO}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", *protos]
        if protoc.main(["protoc", *arguments]) != 0:
            sys.exit("protoc refused the protos; it has said why")
        return {path.name: path.read_text() for path in (out / API).iterdir()}


def present() -> dict[str, str]:
    """The generated files that lie in the source tree."""
    return {path.name: path.read_text() for path in (SOURCE / API).glob("*_pb2.py*")}


def differences(have: Mapping[str, str], want: Mapping[str, str]) -> list[str]:
    """Lines of a unified diff that would turn `have` into `want`."""
    return [
        line
        for name in sorted(have.keys() | want.keys())
        for line in difflib.unified_diff(
            have.get(name, "").splitlines(),
            want.get(name, "").splitlines(),
            f"{API / name} (present)",
            f"{API / name} (from proto/)",
            lineterm="",
        )
    ]


def write(have: Mapping[str, str], want: Mapping[str, str]) -> None:
    """Make the source tree hold exactly `want`."""
    folder = SOURCE / API
    folder.mkdir(parents=True, exist_ok=True)
    for name in have.keys() - want.keys():
        (folder / name).unlink()
    for name, text in want.items():
        if have.get(name) != text:
            (folder / name).write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is out of step")
    check = parser.parse_args().check
    have, want = present(), generate()
    if not check:
        write(have, want)
        return 0
    changes = differences(have, want)
    if changes:
        print(*changes, "api/ is out of step with proto/: run ./dev proto", sep="\n")
    return bool(changes)


if __name__ == "__main__":
    sys.exit(main())
