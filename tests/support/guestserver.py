"""`python -m tests.support.guestserver FD`: the daemon's fork server, whose children see the file system as it is."""

import socket
import sys

from wasm_sandboxer.executor.assignment import PROCESS, RUNTIME
from wasm_sandboxer.executor.child import GuestProcesses
from wasm_sandboxer.forking.jobs import Catalogue
from wasm_sandboxer.forking.server import serve

OPEN = "tests.support.guestserver"
CONFINING = "wasm_sandboxer.forkserver"

if __name__ == "__main__":
    guests = GuestProcesses()
    catalogue = Catalogue(
        processes={PROCESS: guests.run}, forks={PROCESS: guests.fork}, preloads={RUNTIME: guests.preload}
    )
    serve(socket.socket(fileno=int(sys.argv[1])), catalogue)
