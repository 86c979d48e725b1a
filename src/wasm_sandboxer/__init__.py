"""Run WebAssembly modules as containers: one process per node, many guests inside it."""

__version__ = "0.1.0"
