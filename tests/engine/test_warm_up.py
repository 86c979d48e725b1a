"""The engine's own threads are there before the first guest, and so belong to no guest's control group."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, time
from contextlib import suppress
from pathlib import Path
from wasm_sandboxer.engine.store import ModuleStore
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine, store_key

def threads():
    names = []
    for each in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            names.append((each / "comm").read_text().strip())
    return names

engine = WasmtimeEngine(ModuleStore(Path(sys.argv[1]), store_key()))
assert len(threads()) == 1
engine.warm_up()
deadline = time.monotonic() + 10
while "tokio-rt-worker" not in threads():  # a new thread names itself
    assert time.monotonic() < deadline, threads()
print("warm")
"""


def test_warming_up_starts_the_engines_threads(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "warm\n"), done.stderr
