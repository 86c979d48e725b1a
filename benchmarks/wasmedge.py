"""What WasmEdge costs, and what compiling for it gains: a real WasmEdge, by its own command line.

./dev bench wasmedge
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import wasmtime

from benchmarks.report import Report
from testing import fetch
from wasm_sandboxer.engine.wasmedge.compiling import COMPILE, PROPOSALS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "wasm"
# Sieves a million numbers for primes.
SIEVE = """(module (memory (export "memory") 32)
  (func $sieve (param $most i32) (local $each i32) (local $multiple i32)
    (memory.fill (i32.const 0) (i32.const 0) (local.get $most))
    (local.set $each (i32.const 2))
    (loop $next
      (if (i32.eqz (i32.load8_u (local.get $each)))
        (then
          (local.set $multiple (i32.add (local.get $each) (local.get $each)))
          (block $done
            (loop $strike
              (br_if $done (i32.ge_u (local.get $multiple) (local.get $most)))
              (i32.store8 (local.get $multiple) (i32.const 1))
              (local.set $multiple (i32.add (local.get $multiple) (local.get $each)))
              (br $strike)))))
      (local.set $each (i32.add (local.get $each) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $each) (local.get $most)))))
  (func (export "_start") (call $sieve (i32.const 1000000))))"""


def bench(report: Report) -> None:
    binary = fetch.wasmedge()
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as name:
        folder = Path(name)
        starting(report, binary, folder)
        compiling(report, binary, folder)
        running(report, binary, folder)
        memory(report, binary)


def starting(report: Report, binary: Path, folder: Path) -> None:
    report.table("hello, from exec to exit", "the process of WasmEdge alone, without a shim of ours")
    compiled = compile_module(binary, EXAMPLES / "hello.wasm", folder, "0")
    rounds = report.rounds(30)
    report.row("compiled", [timed([binary, *PROPOSALS, compiled]) for _ in range(rounds)])
    report.row("interpreted", [timed([binary, *PROPOSALS, EXAMPLES / "hello.wasm"]) for _ in range(rounds)])
    report.row("  floor: /bin/true", [timed([Path("/bin/true")]) for _ in range(rounds)])


def compiling(report: Report, binary: Path, folder: Path) -> None:
    report.table("compiling", "milliseconds for each KiB of the module, by level of optimisation; ours is 0")
    for module in ("hello", "files"):
        source = EXAMPLES / f"{module}.wasm"
        size = source.stat().st_size / 1024
        for level in ("0", "1", "2"):
            command: list[str | Path] = [binary, *COMPILE, "--optimize", level, source, folder / "compiled.wasm"]
            samples = [timed(command) / size for _ in range(report.rounds(3, 1))]
            report.row(f"{module} ({size:.0f} KiB), level {level}", samples)


def running(report: Report, binary: Path, folder: Path) -> None:
    source = folder / "sieve.wasm"
    source.write_bytes(wasmtime.wat2wasm(SIEVE))
    report.table("sieving a million numbers", "from exec to exit; the start of each is above")
    report.row("interpreted", [timed([binary, source]) for _ in range(report.rounds(3, 1))])
    for level in ("0", "1", "2"):
        compiled = compile_module(binary, source, folder, level)
        report.row(f"compiled, level {level}", [timed([binary, compiled]) for _ in range(report.rounds(10))])
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, source.read_bytes())
    report.row("  rival: wasmtime, without a start", [in_wasmtime(engine, module) for _ in range(report.rounds(10))])


def memory(report: Report, binary: Path) -> None:
    count = report.rounds(20)
    report.table(f"{count} guests that sleep", "memory of each, from smaps_rollup")
    command: list[str | Path] = [binary, *PROPOSALS, EXAMPLES / "sleep.wasm", "forever"]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        time.sleep(1)
        found = [rollup(process.pid) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for name in ("Rss", "Pss", "Private_Dirty"):
        report.row(name, [each[name] / 1024 for each in found], "MiB")


def compile_module(binary: Path, source: Path, folder: Path, level: str) -> Path:
    target = folder / f"{source.stem}-{level}.wasm"
    command: list[str | Path] = [binary, *COMPILE, "--optimize", level, source, target]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def timed(command: list[str | Path]) -> float:
    """Milliseconds that it takes from exec to exit."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    return (time.perf_counter() - begun) * 1e3


def in_wasmtime(engine: wasmtime.Engine, module: wasmtime.Module) -> float:
    store = wasmtime.Store(engine)
    start = wasmtime.Instance(store, module, []).exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    begun = time.perf_counter()
    start(store)
    return (time.perf_counter() - begun) * 1e3


def rollup(pid: int) -> dict[str, int]:
    """Figures of a process's memory in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}
