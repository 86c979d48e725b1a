"""What people choose between, by configuration, annotation or option: pure values."""

from enum import StrEnum


class EngineChoice(StrEnum):
    """Which engine is to run a module; AUTO is wasmtime, or WasmEdge where only that can."""

    AUTO = "auto"
    WASMTIME = "wasmtime"
    WASMEDGE = "wasmedge"
