"""`python -m wasm_sandboxer.forkserver FD`: the process that forks children for the daemon.

Knows which jobs there are, and loads what they need once, so that every child has it already.
"""

import socket
import sys

from wasm_sandboxer.engine.wasmedge import compiling as wasmedge
from wasm_sandboxer.engine.wasmtime import compiling as wasmtime
from wasm_sandboxer.executor.assignment import PROCESS, RUNTIME
from wasm_sandboxer.executor.child import GuestProcesses
from wasm_sandboxer.forking.jobs import Catalogue
from wasm_sandboxer.forking.server import serve


def main() -> None:
    """Serve the control socket whose descriptor is the first argument."""
    guests = GuestProcesses()
    catalogue = Catalogue(
        jobs={**wasmtime.JOBS, **wasmedge.JOBS}, processes={PROCESS: guests.run}, preloads={RUNTIME: guests.preload}
    )
    serve(socket.socket(fileno=int(sys.argv[1])), catalogue)


if __name__ == "__main__":
    main()
