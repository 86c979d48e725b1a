"""`python -m wasm_sandboxer.forkserver FD`: the process that forks children for the daemon.

Knows which jobs there are, and loads what they need once, so that every child has it already. Where it is privileged
it gives up all mounts and the network, so that a guest has none but what it is given; jobs go back to the host's.
"""

import os
import socket
import sys
from functools import partial

from wasm_sandboxer.engine.wasmedge import compiling as wasmedge
from wasm_sandboxer.engine.wasmtime import compiling as wasmtime
from wasm_sandboxer.executor.assignment import PROCESS, RUNTIME
from wasm_sandboxer.executor.child import GuestProcesses
from wasm_sandboxer.forking.jobs import Catalogue, Function, Tell
from wasm_sandboxer.forking.server import serve
from wasm_sandboxer.linux import namespace, privileges, resolver, view

# The engine's runtime makes as many threads as there are processors, and each guest has one of its own.
_ENGINE_THREADS = "1"
_JOBS = {**wasmtime.JOBS, **wasmedge.JOBS}


def main() -> None:
    """Serve the control socket whose descriptor is the first argument."""
    os.environ["TOKIO_WORKER_THREADS"] = _ENGINE_THREADS
    control = socket.socket(fileno=int(sys.argv[1]))
    guests = GuestProcesses(separate=os.geteuid() == 0)
    resolver.fix_sources()
    if os.geteuid() != 0:
        serve(
            control,
            Catalogue(
                jobs=_JOBS,
                processes={PROCESS: guests.run},
                forks={PROCESS: guests.fork},
                preloads={RUNTIME: guests.preload},
            ),
        )
        return
    host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    view.be_bare()
    namespace.unshare(namespace.CLONE_NEWNET)
    privileges.bound()
    catalogue = Catalogue(
        jobs={name: partial(_do_in_host, host, job) for name, job in _JOBS.items()},
        processes={PROCESS: partial(_be_guest, host, guests)},
        forks={PROCESS: guests.fork},
        preloads={RUNTIME: guests.preload},
        warm_up=view.separate,
        kept=(host,),
    )
    serve(control, catalogue)


def _do_in_host(host: int, job: Function, argument: bytes, fds: tuple[int, ...]) -> bytes:
    """Do a job where the file system is that of the daemon."""
    namespace.set_namespace(host, namespace.CLONE_NEWNS)
    os.close(host)
    return job(argument, fds)


def _be_guest(host: int, guests: GuestProcesses, argument: bytes, fds: tuple[int, ...], tell: Tell) -> int:
    os.close(host)
    return guests.run(argument, fds, tell)


if __name__ == "__main__":
    main()
