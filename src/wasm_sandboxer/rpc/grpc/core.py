"""The core of grpcio, told how to poll before it is loaded; the only importer of its names.

`grpc._cython.cygrpc` is what grpcio's own servers are written in. It is private, so grpcio is pinned by the
requirements, and tests/rpc/grpc shows that what is used of it does what is needed.
"""

import os

# Sockets are polled by who waits for the queue. The event engine would poll them in a thread of its own and hand each
# step to another: several wake-ups a call. Setting it counts only before the core is loaded.
POLLING = "-event_engine_listener"
os.environ.setdefault("GRPC_EXPERIMENTS", POLLING)

from grpc._cython import cygrpc as core  # type: ignore[attr-defined]  # noqa: E402

__all__ = ["POLLING", "core"]
