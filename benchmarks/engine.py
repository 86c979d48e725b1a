"""A program from its start to its end: the whole process, inside a running one, loading, compiling, throughput.

./dev bench engine
"""

import _thread
import asyncio
import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.fresh import CHECKOUT, fresh, quietest
from benchmarks.guests import GO, Guests, engine, example, in_loop, module_store
from benchmarks.report import Report, Target
from wasm_sandboxer.engine.protocol import ANYWHERE, Control, Program, Within
from wasm_sandboxer.engine.source import read_source
from wasm_sandboxer.engine.store import Facts, Held, ModuleStore
from wasm_sandboxer.engine.wasmtime.compiling import JOB, JOBS
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.engine.wasmtime.loading import load_program
from wasm_sandboxer.forking.client import ForkServer
from wasm_sandboxer.forking.job import LocalRunner
from wasm_sandboxer.forking.jobs import Bounds, Runner
from wasm_sandboxer.guest import Exit, Guest, Stdio

COMMAND = str(Path(sys.executable).with_name("wasm-sandboxer"))
FORBIDDEN = re.compile(r"grpc|wasm_sandboxer\.(rpc|daemon|api)|google\.protobuf")
_MIB = 1 << 20


def bench(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as root:
        run_example(root, "hello")  # the store now has it
        whole_process(report, root)
        in_process(report, root)
        breakdown(report, root)
        loading(report, root)
        compiling(report)
        throughput(report, root)


def run_example(root: str, name: str, *arguments: str) -> None:
    subprocess.run([COMMAND, "run", "--root", root, example(name), *arguments], stdout=subprocess.DEVNULL, check=True)


# ---- the whole process ----


def whole_process(report: Report, root: str) -> None:
    run = [COMMAND, "run", "--root", root, str(example("hello"))]
    commands = {
        "wasm-sandboxer run hello.wasm, stored": run,
        "  floor: python -c pass": [sys.executable, "-c", "pass"],
        '  floor: python -c "import wasmtime, asyncio, click"': [
            sys.executable, "-c", "import wasmtime, asyncio, click",
        ],
        "  wasm-sandboxer --version": [COMMAND, "--version"],
    }  # fmt: skip
    samples: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(report.rounds(40)):
        for label, command in commands.items():
            samples[label].append(_wall(command))
    report.table("whole process", "wall time, from spawning it to having reaped it; one of each in turn")
    for label, times in samples.items():
        report.row(label, times, target=Target(column="p50", at_most=250) if label in list(commands)[:1] else None)
    _imports(report, run)


def _imports(report: Report, run: list[str]) -> None:
    """What it imports, by what the interpreter says of itself: neither gRPC nor the daemon."""
    traced = [sys.executable, "-X", "importtime", *run]
    said = subprocess.run(traced, capture_output=True, text=True, check=True).stderr
    lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)", said)
    forbidden = [name for *_, name in lines if FORBIDDEN.match(name)]
    report.row(
        "  modules of grpc, protobuf, rpc/, api/ or the daemon", [len(forbidden)], "", Target(column="max", at_most=0)
    )
    report.row("  modules imported in all", [len(lines)], "")
    costs = {name: int(total) / 1e3 for _, total, _, name in lines}
    known = ("click", "asyncio", "wasmtime", "wasmtime.component", "wasm_sandboxer.engine.wasmtime.engine")
    report.note("imports, traced: " + ", ".join(f"{name} {costs[name]:.0f} ms" for name in known if name in costs))


def _wall(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begun) * 1e3


# ---- inside a running process ----


def in_process(report: Report, root: str) -> None:
    rounds = report.rounds(2000, 20)
    found = quietest(report.rounds(5, 1), "floor", "p50", measure_hello, root=root, rounds=rounds)
    note = "one after the other, the floor in turn; of five processes the one whose floor was least disturbed"
    report.table("in-process: a stored hello from Container.start to its exit", note)
    report.row("Container.start to exit", found["whole"], target=Target(column="p50", at_most=1))
    report.row("  floor: a bare thread, back through call_soon_threadsafe", found["floor"])
    report.row("  CPU time of the guest's thread", found["cpu"])
    for phase in PHASES:
        report.row(f"  {phase}", found[phase])


PHASES = (
    "1 start: control, thread, its signal mask and name",
    "2 store, limits, WASI, three instances",
    "3 run, and the store's end",
    "4 back to the loop",
)


def measure_hello(root: str, rounds: int) -> dict[str, list[float]]:
    return in_loop(_measure_hello(root, rounds))


async def _measure_hello(root: str, rounds: int) -> dict[str, list[float]]:
    guests = Guests(root, "hello")
    timed = guests.programs["hello"] = Timed(guests.programs["hello"])
    samples: dict[str, list[float]] = collections.defaultdict(list)
    for number in range(rounds + 10):
        container = guests.container("hello")
        begun = time.perf_counter()
        await container.start()
        end = await container.exit
        ended = time.perf_counter()
        floor = await _bare_thread()
        if number < 10:  # warm
            continue
        assert end.code == 0, end
        samples["whole"].append((ended - begun) * 1e3)
        samples["cpu"].append(end.cpu_time * 1e3)
        samples["floor"].append(floor)
        marks = (begun, *timed.marks, ended)
        for phase, (one, next_) in zip(PHASES, itertools.pairwise(marks), strict=True):
            samples[phase].append((next_ - one) * 1e3)
    return samples


async def _bare_thread() -> float:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    begun = time.perf_counter()
    _thread.start_new_thread(loop.call_soon_threadsafe, (done.set_result, None))
    await done
    return (time.perf_counter() - begun) * 1e3


class Timed:
    """A Program that notes when its run began, was ready and had ended."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.marks: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def run(
        self, guest: Guest, stdio: Stdio, control: Control, ready: Callable[[], None], within: Within = ANYWHERE
    ) -> Exit:
        """See Program."""
        self.marks = [time.perf_counter()]

        def noted() -> None:
            self.marks.append(time.perf_counter())
            ready()

        end = self._program.run(guest, stdio, control, noted, within)
        self.marks.append(time.perf_counter())
        return end


def breakdown(report: Report, root: str) -> None:
    """Where the time on the guest's thread goes: in which of the engine's functions, and in Python."""
    found = fresh(measure_calls, root=root, rounds=report.rounds(1000, 20))
    report.table("in-process: the engine's C functions in one run", "each wrapped to be timed, so the sum is larger")
    report.row("Program.run, with everything wrapped", found["samples"].pop("run"))
    calls = found["calls"]
    for name, times in sorted(found["samples"].items(), key=lambda item: -sorted(item[1])[len(item[1]) // 2]):
        report.row(f"  {name}" + (f" ({calls[name]} calls)" if calls.get(name, 1) > 1 else ""), times)


_SHOWN = 0.004  # ms: functions below this are summed up


def measure_calls(root: str, rounds: int) -> dict[str, Any]:
    from wasmtime import _ffi as ffi  # noqa: PLC0415

    spent: dict[str, list[float]] = collections.defaultdict(list)
    for name in [name for name in vars(ffi) if name.startswith(("wasm_", "wasmtime_", "wasi_"))]:
        function = getattr(ffi, name)
        if callable(function) and not isinstance(function, type):
            setattr(ffi, name, _timing(function, spent[name]))
    return in_loop(_measure_calls(root, rounds, spent))


def _timing(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent.append((time.perf_counter() - begun) * 1e3)

    return functools.update_wrapper(timed, function, assigned=(), updated=())


async def _measure_calls(root: str, rounds: int, spent: dict[str, list[float]]) -> dict[str, Any]:
    guests = Guests(root, "hello")
    timed = guests.programs["hello"] = Timed(guests.programs["hello"])
    samples: dict[str, list[float]] = collections.defaultdict(list)
    calls: dict[str, int] = {}
    for number in range(rounds + 10):
        for times in spent.values():
            times.clear()
        container = guests.container("hello")
        await container.start()
        await container.exit
        if number < 10:
            continue
        samples["run"].append((timed.marks[-1] - timed.marks[0]) * 1e3)
        calls = {name: len(times) for name, times in spent.items() if times}
        for name in calls:
            samples[name].append(sum(spent[name]))
        samples["everything else: Python"].append(samples["run"][-1] - sum(sum(times) for times in spent.values()))
    return {"samples": _only_large(samples), "calls": calls}


def _only_large(samples: dict[str, list[float]]) -> dict[str, list[float]]:
    """Those that count, and the sum of the others."""
    large = {name: times for name, times in samples.items() if sum(times) / len(times) >= _SHOWN}
    small = [times for name, times in samples.items() if name not in large]
    return large | {f"{len(small)} more functions": [sum(each) for each in zip(*small, strict=False)]}


# ---- loading a stored module ----


def loading(report: Report, root: str) -> None:
    report.table("loading a stored module", "an engine that runs already and a module it has not loaded yet")
    for label, path in _sizes(root).items():
        found = fresh(measure_load, root=root, path=str(path), rounds=report.rounds(300, 5))
        parts = found["parts"]
        report.row(f"{label}: find in the store, map, link", parts["load"], target=Target(column="p50", at_most=1))
        report.row("    of which: find, check, hold", parts["find"])
        report.row("  with the source read and hashed first", parts["whole"])
        report.row("  floor: read and hash the source", parts["hash"])
        report.row("  rival: compile it (once, when it was new)", found["compile"])
        report.row("  its code in memory, mapped", found["mapped"], "KiB")
        report.row("    of which: not shared with other processes, after a run", found["private"], "KiB")


def _sizes(root: str) -> dict[str, Path]:
    made = Path(root) / "made.wasm"
    made.write_bytes(large_module())
    found = {"hello": example("hello"), "cat": example("cat"), "made": made, "Go's hello": GO}
    return {f"{label}, {_kib(path)}": path for label, path in found.items() if path.exists()}


def _kib(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / _MIB:.1f} MiB" if size >= _MIB else f"{size / 1024:.1f} KiB"


def large_module(functions: int = 12_000) -> bytes:
    """A module of one MiB: many functions, each a loop with some arithmetic."""
    import wasmtime  # noqa: PLC0415

    body = """(func (param i32 i64) (result i64) (local i32)
      (loop $l
        (local.set 1 (i64.add (i64.mul (local.get 1) (i64.const {n})) (i64.extend_i32_u (local.get 2))))
        (i64.store offset={n} (i32.and (local.get 0) (i32.const 1023))
          (i64.xor (local.get 1) (i64.load offset=8 (i32.and (local.get 2) (i32.const 1023)))))
        (if (i32.gt_u (local.get 2) (i32.const {n})) (then
          (local.set 1 (i64.rotl (local.get 1) (i64.const 13)))
          (local.set 0 (i32.add (local.get 0) (i32.wrap_i64 (local.get 1))))))
        (br_if $l (i32.lt_u (local.tee 2 (i32.add (local.get 2) (i32.const 1))) (local.get 0))))
      (local.get 1))"""
    text = "\n".join(body.format(n=number) for number in range(functions))
    return bytes(wasmtime.wat2wasm(f'(module (memory (export "memory") 1) {text} (func (export "_start")))'))


def measure_load(root: str, path: str, rounds: int) -> dict[str, Any]:
    source = Path(path)
    first = engine(root)
    program = first.load(read_source(source))
    store = module_store(root)
    parts: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(rounds):
        another = engine(root)
        another.runtime = first.runtime  # a fresh one would make the engine and its linker first
        parts["hash"].append(_timed(lambda: hashlib.sha256(source.read_bytes()).hexdigest()))
        parts["find"].append(_timed(lambda: _held(store, program.digest).close()))
        parts["whole"].append(_timed(functools.partial(_read_and_load, another, source)))
        parts["load"].append(_timed(lambda: _load(store, first, program)))
    facts = _held(store, program.digest).facts
    guest = Guest(module=source, argv=(source.name,))
    program.run(guest, Stdio(), program.control(guest, Stdio(), None), lambda: None)
    mapped, private = _mappings(f"{program.digest}.cwasm")
    return {"parts": parts, "compile": [facts.compile_seconds * 1e3], "mapped": [mapped], "private": [private]}


def _read_and_load(loader: WasmtimeEngine, source: Path) -> None:
    loader.load(read_source(source))


def _load(store: ModuleStore, loader: WasmtimeEngine, program: Any) -> None:
    """What the engine does with a stored module once it knows its digest."""
    held = _held(store, program.digest)
    load_program(loader.runtime, program.digest, held)
    held.close()


def _held(store: ModuleStore, digest: str) -> Held:
    held = store.find(digest)
    assert held is not None
    return held


def _timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1e3


def _mappings(name: str) -> tuple[int, int]:
    """KiB of this process's mappings of the file that are in memory, and those that no other could share."""
    resident = private = 0
    wanted = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            wanted = name in line
        elif wanted:
            what, number = line.split()[:2]
            resident += int(number) if what == "Rss:" else 0
            private += int(number) if what == "Private_Dirty:" else 0
    return resident, private


# ---- compiling ----


def compiling(report: Report) -> None:
    rounds = report.rounds(30)
    report.table("compiling in a bounded child", "a module that is not in the store, in a process that runs already")
    for name in ("hello", "cat"):
        plain = [fresh(measure_plain_compile, path=str(example(name))) for _ in range(rounds)]
        report.row(f"{name}: floor: compile it in a fresh process, unbounded and unkept", plain)
        for runner, where in RUNNERS.items():
            found = fresh(measure_compile, path=str(example(name)), rounds=rounds, runner=runner)
            beyond = [whole - inside for whole, inside in zip(found["whole"], found["inside"], strict=True)]
            report.row(f"  Engine.compile, {where}", found["whole"])
            report.row("    beyond the compile time inside the child", beyond, target=Target(column="p50", at_most=5))
            report.row("    of which: a child that has nothing to do", found["job"])
            if runner == "local":
                report.row("      floor: fork this process, end the child at once, reap it", found["fork"])
            report.row("    of which: write, hash, fsync, rename", found["publish"])
            report.row("    a second time, stored", found["again"])


RUNNERS = {"local": "the child forked here, as by commands", "server": "by the fork server, as by the daemon"}


def measure_compile(path: str, rounds: int, runner: str) -> dict[str, list[float]]:
    source = read_source(Path(path))
    through: Runner = LocalRunner(JOBS) if runner == "local" else ForkServer("wasm_sandboxer.forkserver")
    found: dict[str, list[float]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as root:
        store = module_store(root)
        here = WasmtimeEngine(store, runner=through)
        here.compile(source)  # warm
        code = Path(_held(store, source.digest).path).read_bytes()
        for _ in range(rounds):
            store.discard(source.digest)
            found["whole"].append(_timed(lambda: here.compile(source)))
            facts = _held(store, source.digest).facts
            found["inside"].append(facts.compile_seconds * 1e3)
            found["again"].append(_timed(lambda: here.compile(source)))
            found["job"].append(_timed(lambda: _do_nothing(through)))
            if runner == "local":
                found["fork"].append(_timed(_fork))
            found["publish"].append(_timed(functools.partial(_publish, store, code, facts)))
    if isinstance(through, ForkServer):
        through.stop()
    return found


def _do_nothing(runner: Runner) -> None:
    """A job that is refused at once: there is nothing to compile."""
    nothing = os.memfd_create("nothing")
    runner.run(JOB, b"", (nothing, nothing), Bounds(memory=2 << 30, seconds=10))
    os.close(nothing)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _publish(store: ModuleStore, code: bytes, facts: Facts) -> None:
    digest = "0" * 64
    with store.compiling(digest), store.new_file(digest) as fd:
        os.write(fd, code)
        store.publish(digest, fd, dataclasses.replace(facts, source="copy")).close()


def measure_plain_compile(path: str) -> float:
    import wasmtime  # noqa: PLC0415

    from wasm_sandboxer.engine.wasmtime.runtime import configuration  # noqa: PLC0415

    source = Path(path).read_bytes()
    return _timed(lambda: wasmtime.Module(wasmtime.Engine(configuration()), source).serialize())


# ---- throughput ----


def throughput(report: Report, root: str) -> None:
    size = report.rounds(512, 16) * _MIB
    run = [COMMAND, "run", "--root", root]
    run_example(root, "flood", "1")
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as folder:
        given = Path(folder) / "given"
        with given.open("wb") as file:
            for _ in range(size // _MIB):
                file.write(b"flood 0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 the end.\n" * (_MIB // 64))
        with given.open("rb") as file:
            subprocess.run([*run, example("cat")], stdin=file, stdout=subprocess.DEVNULL, check=True)
        commands = {
            "flood": ([*run, str(example("flood")), str(size)], None),
            "cat.wasm": ([*run, str(example("cat"))], given),
            "  rival: cat(1)": (["cat"], given),
            "  rival: dd bs=64k": (["dd", "bs=64k", "status=none"], given),
        }
        found: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
        for _ in range(report.rounds(9)):
            for label, (command, stdin) in commands.items():
                found[label].append(_drain(command, stdin, size))
    report.table(f"throughput: {size // _MIB} MiB to a pipe that is spliced away", "a process each, in turn")
    for label, pairs in found.items():
        report.row(f"{label}", [rate for _, rate in pairs], "MB/s")
        report.row("    to its first byte", [first for first, _ in pairs])


def _drain(command: list[str], stdin: Path | None, size: int) -> tuple[float, float]:
    """Milliseconds to the first byte, and megabytes a second from then on."""
    with open(os.devnull, "wb") as null, _opened(stdin) as source:  # noqa: PTH123
        begun = time.perf_counter()
        with subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, cwd=CHECKOUT) as process:
            assert process.stdout is not None
            out = process.stdout.fileno()
            read = len(os.read(out, 1))
            first = time.perf_counter()
            while moved := os.splice(out, null.fileno(), _MIB):
                read += moved
            ended = time.perf_counter()
    assert read == size, (command, read, size)
    return (first - begun) * 1e3, size / 1e6 / (ended - first)


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[Any]:
    if path is None:
        yield subprocess.DEVNULL
        return
    with path.open("rb") as file:
        yield file
