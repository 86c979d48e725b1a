"""The daemon's configuration: one frozen value, from defaults, a TOML file and the command line.

Every key is documented here, by its field; a key that is unknown or of the wrong type is refused by name.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from wasm_sandboxer.choices import EngineChoice, Isolation
from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.units import parse_address, parse_duration, parse_size

RUN = Path("/run/wasm-sandboxer")


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How it is logged: lines for people, or a JSON object a line."""

    TEXT = "text"
    JSON = "json"


def _key(about: str, default: Any, *, unit: str = "", least: float = 0, most: float = 1 << 62) -> Any:
    return field(default=default, metadata={"about": about, "unit": unit, "least": least, "most": most})


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings; sizes in bytes, times in seconds."""

    listen: Path = _key("gRPC socket: the Sandbox Controller and Task v3", RUN / "sandboxer.sock")
    task_listen: Path = _key(
        "ttrpc socket: Task v3, the address containerd is given; with another than this one containerd's environment "
        "must have WASM_SANDBOXER_TASK_SOCKET, by which the shim finds it", RUN / "task.sock",
    )  # fmt: skip
    state: Path = _key("folder of what lasts while the machine is up: records of sandboxes and containers", RUN)
    metrics_listen: str = _key(
        "ADDR:PORT where Prometheus may ask, at /metrics, as 127.0.0.1:9464; empty for nowhere", "", unit="address"
    )
    root: Path = _key("folder of what lasts longer: the module store", Path("/var/lib/wasm-sandboxer"))
    containerd: Path = _key("containerd's socket, for events", Path("/run/containerd/containerd.sock"))
    log_level: LogLevel = _key("debug, info, warning or error; read again on SIGHUP", LogLevel.INFO)
    log_format: LogFormat = _key("text or json", LogFormat.TEXT)
    shutdown_timeout: float = _key("time to end everything on SIGTERM", 10.0, unit="duration", least=0.1)
    event_queue: int = _key("events kept while containerd cannot be reached; beyond, the oldest go", 10_000, least=1)
    workers: int = _key(
        "threads for mounting, reading bundles and loading modules; there are more, up to 256, while all of them are "
        "held up by something slow", 8, least=1, most=1024,
    )  # fmt: skip
    nice: int = _key(
        "priority of the daemon's own threads, so that guests do not delay it; 0 changes nothing", -10,
        least=-20, most=19,
    )  # fmt: skip
    default_memory: int = _key("bound on linear memory of a container that has none, 0 for 4 GiB", 0, unit="size")
    node_memory: int = _key(
        "bound on linear memory of all guests on threads together, 0 for nine tenths of the machine's memory; guests "
        "in processes are not among them", 0,
        unit="size",
    )  # fmt: skip
    isolation: Isolation = _key(
        "auto, thread or process: where containers run; auto is a thread for a core module, and a process for a "
        "component or what WasmEdge runs; pods may choose otherwise, but not with process", Isolation.AUTO,
    )  # fmt: skip
    component_threads: bool = _key(
        "whether a pod may choose a thread for a component too; nothing bounds its sockets there, nor ends its waits",
        False,
    )  # fmt: skip
    engine: EngineChoice = _key(
        "auto, wasmtime or wasmedge, for containers that leave the choice; auto is wasmtime, or WasmEdge where only "
        "that can run the module", EngineChoice.AUTO,
    )  # fmt: skip
    wasmedge: Path = _key("the WasmEdge to use; without one that of $WASMEDGE, or the one on PATH", Path())
    wasmedge_plugins: Path = _key(
        "folder of WasmEdge plugins, machine code that a pod may have loaded by naming it; without one none may",
        Path(),
    )
    lenient_limits: bool = _key(
        "run containers whose limits this host's control groups cannot hold, on threads or in processes", False
    )
    compile_memory: int = _key(
        "memory that compiling a module may take; as many compile at a time as there are processors, at least two",
        2 << 30, unit="size",
    )  # fmt: skip
    compile_timeout: float = _key(
        "time that compiling a module may take, once it is its turn", 120.0, unit="duration", least=0.1
    )
    store_size: int = _key(
        "compiled modules beyond this are removed, least recently used first", 4 << 30, unit="size"
    )

    def replaced(self, **changes: Any) -> "Config":
        """A copy with these settings; None leaves one as it is."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


def load(path: Path) -> Config:
    """The configuration in a TOML file; raises InvalidArgument that names the file and the key."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: not TOML: {error}") from None
    known = {each.name: each for each in fields(Config)}
    unknown = [name for name in table if name not in known]
    if unknown:
        raise InvalidArgument(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return Config(**{name: _value(path, known[name], value) for name, value in table.items()})


def _value(path: Path, key: "dataclasses.Field[Any]", given: Any) -> Any:
    try:
        value = _convert(key, given)
    except (InvalidArgument, ValueError) as error:
        raise InvalidArgument(f"{path}: {key.name}: {error}") from None
    if value is None:
        raise InvalidArgument(f"{path}: {key.name} must be {_wanted(key)}, not {given!r}")
    least, most = key.metadata["least"], key.metadata["most"]
    if isinstance(value, int | float) and not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        raise InvalidArgument(f"{path}: {key.name} must be {bound}, not {given!r}")
    return value


def _convert(key: "dataclasses.Field[Any]", given: Any) -> Any:
    """The value meant; None for one of the wrong type."""
    unit = key.metadata["unit"]
    value: Any = None
    match key.default, given:
        case str(), str() if unit == "address":
            if given:
                parse_address(given)
            value = given
        case _, str() if unit:
            value = parse_size(given) if unit == "size" else parse_duration(given)
        case StrEnum(), str():
            value = next((member for member in type(key.default) if member == given), None)
        case Path(), str() if given.startswith("/"):
            value = Path(given)
        case bool(), bool():
            value = given
        case ((int() | float()), bool()):
            pass  # which is a number to Python
        case float(), int() | float():
            value = float(given)
        case int(), int():
            value = given
    return value


def _wanted(key: "dataclasses.Field[Any]") -> str:
    match key.default:
        case _ if key.metadata["unit"]:
            return f"{'an' if key.metadata['unit'] == 'address' else 'a'} {key.metadata['unit']}"
        case Path():
            return "an absolute path"
        case StrEnum():
            return f"one of {', '.join(type(key.default))}"
        case bool():
            return "true or false"
    return "a whole number"
