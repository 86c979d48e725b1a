"""`wasm-sandboxer run`: one module, here and now, with what the caller gives it and nothing else.

The process is the sandbox of its one guest: it ends with it, by os._exit, so that a component that waits in
native code keeps nobody waiting.
"""

import json
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wasm_sandboxer.choices import EngineChoice, Isolation
from wasm_sandboxer.cli import BAD_INPUT, complain, interrupts, one_line, output
from wasm_sandboxer.cli.engine import open_engine, progress
from wasm_sandboxer.cli.grants import environment, preopens
from wasm_sandboxer.cli.params import (
    CPUS,
    DURATION,
    GIVEN,
    MODULE,
    SIZE,
    STDIN,
    default_root,
    engine_option,
    store_options,
)
from wasm_sandboxer.errors import InvalidArgument, ModuleError, OutOfMemory, Unsupported, WasmSandboxerError

if TYPE_CHECKING:
    from wasm_sandboxer.engine.choosing import ChoosingEngine
    from wasm_sandboxer.engine.protocol import Program
    from wasm_sandboxer.executor.protocol import Executor
    from wasm_sandboxer.guest import Exit, Guest, Reason, Stdio
    from wasm_sandboxer.linux.cgroup.host import Host
    from wasm_sandboxer.linux.cgroup.protocol import Place

TIMED_OUT = 124  # as timeout(1) has it
_GROUP = "wasm-sandboxer-run-"  # and this process's id
_EXIT_CODES = """\b
Exit codes:
  the guest's own
  134  it trapped
  137  it died of --memory
  124  --timeout has stopped it
  130  Ctrl-C; 143 SIGTERM; 129 SIGHUP
  2    the module or an option cannot be used
"""
_PERIOD = 100_000  # microseconds; the kernel's own default
_GRACE = 0.015  # seconds a stopped guest has to end by itself before the process ends around it


@click.command(context_settings={"allow_interspersed_args": False}, epilog=_EXIT_CODES)
@click.argument("module", type=MODULE, metavar="MODULE[#FUNCTION]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARG]…")
@click.option("--env", "-e", "env", multiple=True, metavar="K=V", help="Set a variable; K alone takes yours.")
@click.option(
    "--env-file",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Set variables from a file of K=V lines.",
)
@click.option(
    "--dir",
    "dirs",
    type=GIVEN,
    multiple=True,
    metavar="HOST[:GUEST[:ro]]",
    help="Give a folder or a file; the guest sees it at GUEST (default: HOST).",
)
@click.option("--cwd", metavar="PATH", help="The guest's working directory, inside what --dir gives.")
@click.option("--memory", type=SIZE, metavar="SIZE", help="Bound on linear memory: 64MiB, 1GiB.  [default: 4GiB]")
@click.option("--cpus", type=CPUS, metavar="N", help="Bound on CPU: 0.5 is half a core.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Stop the guest after this time, with code 124.")
@click.option(
    "--network",
    type=click.Choice(["none", "host"]),
    default="none",
    show_default=True,
    help="What a component's sockets, name look-ups and HTTP requests reach.",
)
@engine_option
@click.option(
    "--isolation",
    type=click.Choice([choice.value for choice in Isolation]),
    default=Isolation.AUTO.value,
    show_default=True,
    help="Run it on a thread of this process, or in a child of its own; auto is a thread, but for WasmEdge.",
)
@click.option(
    "--plugins",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="A folder or file of WasmEdge plugins, machine code that is loaded for it.",
)
@click.option(
    "--nn-preload",
    "models",
    multiple=True,
    metavar="NAME:ENCODING:TARGET:FILE",
    help="A model that WasmEdge's WASI-NN plugin loads first; FILE as the guest sees it.",
)
@click.option("--stdin/--no-stdin", "stdin", default=True, show_default=True, help="Give the guest your stdin.")
@click.option("--name", metavar="NAME", help="The guest's name in messages, ps and top.  [default: the module's]")
@click.option("--json", "as_json", is_flag=True, help="Print the result on stderr as a line of JSON.")
@store_options
def run(**options: Any) -> NoReturn:
    """Run MODULE: a WASI command or reactor, a component with wasi:cli/run, or their text form; - is your stdin.

    Without #FUNCTION the module's own entry point runs; with it that export is called, the ARGs are its
    parameters and its results are printed. The guest gets no variable, folder or network that is not given.
    """  # fmt: skip
    try:
        code = _run(options)
    except WasmSandboxerError as error:
        code = _complain(str(error), options)
    except KeyboardInterrupt:
        code = interrupts.exit_code()
    _leave(code)


def _run(options: dict[str, Any]) -> int:
    path, function = _split(options["module"])
    if path == STDIN:
        options["stdin"] = False  # it is read to its end, or from its beginning if it is a file
    engine = open_engine(*(options[name] for name in ("root", "compile_memory", "compile_timeout", "store_size")))
    env = environment(options["env_file"], options["env"])
    with progress(f"compiling {one_line(path.name)}") as waiting:
        chosen = engine.choose(path, choice=EngineChoice(options["engine_name"]), waiting=waiting)
    program = chosen.what
    guest = _guest(options, path, function or None, env)
    if chosen.engine is EngineChoice.WASMTIME:
        _tell_unused(options, guest)
    try:
        program.check(guest)
        with ExitStack() as undo:
            executor = _executor(program, engine, Isolation(options["isolation"]), undo)
            return _execute(program, guest, options, executor, _place(options["cpus"], undo))
    except (ModuleError, OutOfMemory) as error:
        raise type(error)(f"{path}: {error}") from None


def _split(module: str) -> tuple[Path, str]:
    """The file and the function that MODULE[#FUNCTION] names; a file's own name may have a # in it."""
    ends = [len(module), *(index for index in reversed(range(len(module))) if module[index] == "#")]
    end = next((end for end in ends if end and os.path.exists(module[:end])), ends[-1])  # noqa: PTH110  # "" is no path
    path, function = module[:end], module[end + 1 :]
    if not path:
        raise InvalidArgument(f"{module!r} names no file; write MODULE or MODULE#FUNCTION")
    return STDIN if path == "-" else Path(path), function


def _tell_unused(options: dict[str, Any], guest: "Guest") -> None:
    """Say which options only WasmEdge would heed."""
    for option, given in (("--plugins", options["plugins"]), ("--nn-preload", options["models"])):
        if given:
            complain(f"{option} is not used: wasmtime runs {guest.argv[0]}, and only WasmEdge has plugins")


def _guest(options: dict[str, Any], path: Path, function: str | None, env: dict[str, str]) -> "Guest":
    from wasm_sandboxer.guest import Guest, Limits, Network  # noqa: PLC0415  # start-up time

    given = preopens(options["dirs"], options["cwd"], options["root"] or default_root())
    if options["cwd"] is not None:
        env.setdefault("PWD", options["cwd"])
    return Guest(
        module=path,
        argv=(options["name"] or one_line(path.name), *options["arguments"]),
        function=function,
        env=tuple(env.items()),
        preopens=given,
        limits=Limits(memory=options["memory"]),
        network=Network(options["network"]),
        plugins=options["plugins"],
        models=options["models"],
    )


def _place(cpus: float | None, undo: ExitStack) -> "Place | None":
    """The control group that holds --cpus; raises a domain error that says why there can be none."""
    if cpus is None:
        return None
    from wasm_sandboxer.core.groups import Groups  # noqa: PLC0415  # start-up time
    from wasm_sandboxer.linux.cgroup.host import detect  # noqa: PLC0415
    from wasm_sandboxer.linux.cgroup.protocol import GroupLimits  # noqa: PLC0415

    host = detect()
    _remove_groups_of_the_dead(host)
    groups = Groups(host, f"{_GROUP}{os.getpid()}")
    undo.callback(groups.close)
    if why := groups.why_not("cpu"):
        raise Unsupported(f"--cpus takes a control group, and none can be used here: {why}")
    limits = GroupLimits(quota=max(1000, round(cpus * _PERIOD)), period=_PERIOD)
    group = groups.container(None, "run", "guest", limits)
    assert group is not None  # a quota is a hard limit: without a group for it, the line above has raised
    undo.callback(groups.remove, group)
    return groups.place(group)


def _remove_groups_of_the_dead(host: "Host") -> None:
    """Remove what processes like this one left that were killed; the kernel keeps those that somebody is in."""
    for name, folders in host.beside(_GROUP).items():
        if Path(f"/proc/{name.removeprefix(_GROUP)}").exists():
            continue
        for folder in folders:
            for each in (*folder.glob("*/"), folder):
                with suppress(OSError):
                    each.rmdir()


def _execute(
    program: "Program", guest: "Guest", options: dict[str, Any], executor: "Executor", place: "Place | None"
) -> int:
    import asyncio  # noqa: PLC0415  # start-up time

    # A reader that leaves (`| head`) ends this process as it ends others.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    begun = time.monotonic()
    stdio = _stdio(with_stdin=options["stdin"])
    end, cause = asyncio.run(_supervise(program, guest, stdio, options["timeout"], executor, place))
    if cause == TIMED_OUT:
        complain(f"{guest.argv[0]} was stopped after {options['timeout']:g} s, its time limit (--timeout)")
    code = cause or (end.code if end is not None else 1)
    if options["as_json"]:
        _print_json(end, code, guest, time.monotonic() - begun)
    return code


async def _supervise(
    program: "Program",
    guest: "Guest",
    stdio: "Stdio",
    time_limit: float | None,
    executor: "Executor",
    place: "Place | None",
) -> "tuple[Exit | None, int]":
    """Run the guest to its end; what ended it from outside is the second value, 0 for nothing."""
    import asyncio  # noqa: PLC0415

    from wasm_sandboxer.core.container import Container  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    container = Container(guest.argv[0], program, guest, stdio, executor, place=place)
    interrupted: asyncio.Future[Any] = loop.create_future()
    for number in interrupts.NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, and behind a shell's &
            loop.add_signal_handler(number, _interrupt, interrupted, 128 + number)
    interrupts.check()  # one that was lost before
    if time_limit is not None:
        loop.call_later(time_limit, _interrupt, interrupted, TIMED_OUT)
    starting: asyncio.Future[Any] = asyncio.ensure_future(container.start())
    await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        await asyncio.wait({container.exit, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    if not container.exit.done():
        stopping = asyncio.ensure_future(container.kill(signal.SIGKILL))
        await asyncio.wait({container.exit}, timeout=_GRACE)
        stopping.cancel()
    return (
        container.exit.result() if container.exit.done() else None,
        interrupted.result() if interrupted.done() else 0,
    )


def _executor(program: "Program", engine: "ChoosingEngine", isolation: Isolation, undo: ExitStack) -> "Executor":
    """Starts the guest; made while this process has one thread. Raises InvalidArgument for what cannot be."""
    from wasm_sandboxer.engine.protocol import is_external  # noqa: PLC0415

    if is_external(program):
        from wasm_sandboxer.executor.command import CommandExecutor  # noqa: PLC0415

        if isolation is Isolation.THREAD:
            raise InvalidArgument("--isolation thread: WasmEdge runs it, which is a process of its own")
        return CommandExecutor()
    if isolation is Isolation.PROCESS:
        from wasm_sandboxer.executor.assignment import PROCESS  # noqa: PLC0415
        from wasm_sandboxer.executor.child import GuestProcesses  # noqa: PLC0415
        from wasm_sandboxer.executor.process import ProcessExecutor  # noqa: PLC0415
        from wasm_sandboxer.forking.client import LocalForkServer  # noqa: PLC0415
        from wasm_sandboxer.forking.jobs import Catalogue  # noqa: PLC0415

        forks = LocalForkServer(Catalogue(processes={PROCESS: GuestProcesses(engine.wasmtime.runtime).run}))
        undo.callback(forks.stop)
        forks.start()
        return ProcessExecutor(forks)
    from wasm_sandboxer.executor.thread import ThreadExecutor  # noqa: PLC0415

    return ThreadExecutor()


def _interrupt(interrupted: Any, code: int) -> None:
    if not interrupted.done():
        interrupted.set_result(code)


def _stdio(*, with_stdin: bool) -> "Stdio":
    from wasm_sandboxer.guest import Stdio  # noqa: PLC0415

    stdin = 0 if with_stdin else None
    terminals = frozenset(fd for fd in (stdin, 1, 2) if fd is not None and os.isatty(fd))
    return Stdio(stdin=stdin, stdout=1, stderr=2, terminals=terminals)


def _print_json(end: "Exit | None", code: int, guest: "Guest", wall: float) -> None:
    from wasm_sandboxer.guest import Reason  # noqa: PLC0415

    result = {
        "name": guest.argv[0],
        "module": str(guest.module),
        "exit_code": code,
        "reason": "timeout" if code == TIMED_OUT and _reason(end) is Reason.STOPPED else _reason(end),
        "message": end.message if end is not None else "",
        "wall_seconds": round(wall, 6),
        "cpu_seconds": round(end.cpu_time, 6) if end is not None else 0,
        "peak_memory": end.peak_memory if end is not None else 0,
    }
    output.tell(json.dumps(result))


def _reason(end: "Exit | None") -> "Reason":
    from wasm_sandboxer.guest import Reason  # noqa: PLC0415

    return end.reason if end is not None else Reason.STOPPED  # it still waits, in native code


def _complain(message: str, options: dict[str, Any]) -> int:
    if options["as_json"]:
        about = {"module": options["module"], "exit_code": BAD_INPUT, "reason": "invalid", "message": message}
        output.tell(json.dumps(about))
        return BAD_INPUT
    return complain(message)


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):  # the guest's code wins
                stream.flush()
    os._exit(code & 0xFF)
