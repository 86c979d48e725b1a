"""What people choose between, by configuration, annotation or option: pure values."""

from enum import StrEnum


class EngineChoice(StrEnum):
    """Which engine is to run a module; AUTO is wasmtime, or WasmEdge where only that can."""

    AUTO = "auto"
    WASMTIME = "wasmtime"
    WASMEDGE = "wasmedge"


class Isolation(StrEnum):
    """What a guest runs on; AUTO is a thread, or a process for what only its end could stop: a component."""

    AUTO = "auto"
    THREAD = "thread"
    PROCESS = "process"
