"""A dress rehearsal of all that a child does for a guest, in the fork server, before it forks any.

What Python and the engine do for the first time then, no child has to do in pages of its own: caches are filled,
the interpreter's code is adapted. Each goes on a thread that ends with it, since most of what a child gives up (its
mounts, its privileges, its system calls) a thread gives up for itself alone; and the engine draws random numbers from
a generator of the thread's, of which every child would inherit the state.
"""

import os
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from wasm_sandboxer.engine.protocol import Carried
from wasm_sandboxer.executor import assignment
from wasm_sandboxer.executor.assignment import Assignment
from wasm_sandboxer.executor.confinement import Enclosure
from wasm_sandboxer.forking.job import count_threads
from wasm_sandboxer.forking.jobs import Process
from wasm_sandboxer.guest import Exit, Guest, Network, Preopen
from wasm_sandboxer.linux import mount, privileges
from wasm_sandboxer.linux.privileges import Privileges

_TIMES = 8  # until Python's interpreter has adapted its code to what it does
_ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET: SECCOMP_RET_ALLOW; seccomp(2)


def rehearse(run: Process, exercises: Iterable[Carried], warm_up: Callable[[], None] | None) -> None:
    """Run guests that do nothing, as assigned ones; raises RuntimeError if one does not end well.

    With `warm_up`, which is what each child does first, they are confined.
    """
    with _as_it_was():
        for carried in exercises:
            for network in Network:
                for _ in range(_TIMES):
                    with ThreadPoolExecutor(1) as thread:
                        thread.submit(_once, run, carried, network, warm_up).result()
    while count_threads() > 1:  # Python lets go of one before the kernel does
        time.sleep(0.001)


def _once(run: Process, carried: Carried, network: Network, warm_up: Callable[[], None] | None) -> None:
    doors = {"code": carried.code}
    enclosure = Enclosure()
    folder = Path("/proc")
    if warm_up is not None:
        warm_up()
        folder = Path("/")
        enclosure = Enclosure(privileges=_privileges())
        doors |= {
            "group0": os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC),
            "network": os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC),
            "root": mount.clone_tree("/proc"),
        }
    given = Assignment(
        name="wasm-forkserver",
        guest=Guest(
            module=Path("exercise"),
            argv=("exercise",),
            env=(("A", "B"),),
            preopens=(Preopen(host=folder, guest="/"),),
            network=network,
        ),
        program=carried.about,
        command=None,
        terminals=frozenset(),
        share=None,
        enclosure=enclosure,
        doors=tuple(doors),
    )
    heard: list[bytes] = []
    run(given.pack(), tuple(doors.values()), heard.append)
    end = assignment.read(heard[-1])
    if not isinstance(end, Exit) or end.code:
        raise RuntimeError(f"the fork server's exercise has failed: {end}")


def _privileges() -> Privileges:
    """Those of a guest that is root, and of this process: what it gives up is its thread's alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Privileges(
        groups=tuple(os.getgroups()),
        capabilities=frozenset(privileges.CAPABILITIES.values()),
        rlimits=((resource.RLIMIT_NOFILE, soft, hard),),
        oom_score=int(Path("/proc/self/oom_score_adj").read_text()),
        umask=0o022,
        seccomp=_ALLOW,
        own_seccomp=_ALLOW,
    )


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what a child does to its whole process."""
    stderr = sys.stderr
    try:
        yield
    finally:
        sys.stderr = stderr
        privileges.set_dumpable(True)
