"""The OCI runtime specification, as far as a Wasm container honours it; pure.

What config.json says is read strictly: a field of the wrong type is refused with its path. What it says that we
do not honour is listed, so that it can be named in the log.
Source: opencontainers/runtime-spec, config.md and config-linux.md.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wasm_sandboxer.errors import InvalidArgument

_NO_ID = (1 << 32) - 1  # which the kernel takes for none
_INT64 = (-1 << 63, (1 << 63) - 1)  # what the specification's numbers are, where it does not say uint64
_UINT64 = (0, (1 << 64) - 1)
_UMASK = (0, 0o7777)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a pair of surrogates, perhaps without the other
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"  # the annotation that CRI gives the containers of a pod

# Mount types that make a Linux container's own system folders; a guest has no use for them.
SYSTEM_MOUNTS = frozenset(
    {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs", "securityfs"}
)


@dataclass(frozen=True, kw_only=True)
class User:
    """Who a process is; a umask of None leaves the daemon's."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    umask: int | None = None


@dataclass(frozen=True, kw_only=True)
class Process:
    """What runs: args[0] names the module, maybe with #function.

    The rest is for guests in processes of their own. `capabilities` are those that it has after it was executed, by
    their names; `rlimits` are name, soft and hard limit.
    """

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    terminal: bool = False
    user: User = User()
    capabilities: frozenset[str] = frozenset()
    rlimits: tuple[tuple[str, int, int], ...] = ()
    oom_score: int | None = None


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A mount of the spec."""

    destination: str
    kind: str
    source: str
    options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether it may not be written: "ro", or "rro", which means what is mounted in it too."""
        return bool({"ro", "rro"} & set(self.options))

    @property
    def is_slave(self) -> bool:
        """Whether it shall see what the host mounts in it later."""
        return bool({"slave", "rslave", "shared", "rshared"} & set(self.options))

    @property
    def is_bind(self) -> bool:
        """Whether it makes a file or folder of the host visible."""
        return self.kind == "bind" or bool({"bind", "rbind"} & set(self.options))


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The limits that apply to a guest, in the spec's own units; None is what was not said, below 0 no limit."""

    memory: int | None = None
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_burst: int | None = None
    cpus: str | None = None
    mems: str | None = None
    pids: int | None = None

    @property
    def most_memory(self) -> int | None:
        """Bytes; None where there is no limit, or nothing was said."""
        return None if self.memory is None or self.memory < 0 else self.memory

    def updated(self, given: "Resources") -> "Resources":
        """These, with what is said there."""
        return replace(self, **{name: value for name, value in vars(given).items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A container as containerd describes it."""

    process: Process
    root: str
    root_read_only: bool
    mounts: tuple[Mount, ...]
    annotations: Mapping[str, str]
    resources: Resources
    cgroups_path: str
    seccomp: Mapping[str, Any] = field(default_factory=dict)
    netns: str | None = None  # a network namespace's path, empty for the host's, None for a new one
    not_honoured: tuple[str, ...] = field(default=())


def parse(data: bytes) -> Spec:
    """The spec in a config.json; raises InvalidArgument with the path of what is wrong."""
    table = _Table("config.json", _object(data, "config.json"))
    linux = table.table("linux")
    root = table.table("root")
    return Spec(
        process=_process(table.table("process")),
        root=root.string("path", "rootfs"),
        root_read_only=root.boolean("readonly"),
        mounts=tuple(_mount(mount) for mount in table.tables("mounts")),
        annotations=table.strings("annotations"),
        resources=_resources(linux.table("resources")),
        cgroups_path=linux.string("cgroupsPath"),
        seccomp=linux.value("seccomp"),
        netns=_netns(linux.tables("namespaces")),
        not_honoured=tuple(_not_honoured(table, linux)),
    )


def parse_process(data: bytes) -> Process:
    """A process alone, as Exec sends it."""
    return _process(_Table("process", _object(data, "process")))


def parse_resources(data: bytes) -> Resources:
    """Resources alone, as Update sends them."""
    return _resources(_Table("resources", _object(data, "resources")))


def _process(table: "_Table") -> Process:
    args = table.list("args", str)
    if not args or not args[0]:
        raise InvalidArgument(f"{table.path}.args is empty: give the module's path in the image")
    return Process(
        args=tuple(args),
        env=tuple(_variable(table, entry) for entry in table.list("env", str)),
        cwd=table.string("cwd", "/"),
        terminal=table.boolean("terminal"),
        user=(user := _user(table.table("user"))),
        capabilities=_capabilities(table.table("capabilities"), user),
        rlimits=tuple(_rlimit(each) for each in table.tables("rlimits")),
        oom_score=table.integer("oomScoreAdj"),
    )


def _user(table: "_Table") -> User:
    uid, gid = table.integer("uid", *_UINT64), table.integer("gid", *_UINT64)
    umask = table.integer("umask", *_UMASK)
    groups = table.list("additionalGids", int)
    if any(not 0 <= group < _NO_ID for group in (uid or 0, gid or 0, *groups)):
        raise InvalidArgument(f"{table.path} has an id that is none")
    return User(uid=uid or 0, gid=gid or 0, groups=tuple(groups), umask=umask)


def _capabilities(table: "_Table", user: User) -> frozenset[str]:
    """What a program has of them once it is executed; capabilities(7), "Transformation of capabilities"."""
    sets = {name: frozenset(table.list(name, str)) for name in ("bounding", "effective", "ambient")}
    return sets["bounding"] & sets["effective"] if user.uid == 0 else sets["ambient"]


def _rlimit(table: "_Table") -> tuple[str, int, int]:
    return table.string("type"), table.integer("soft", *_UINT64) or 0, table.integer("hard", *_UINT64) or 0


def _netns(namespaces: "list[_Table]") -> str | None:
    """As runtimes read the list: one that is not in it is the host's, one without a path is new."""
    if not namespaces:
        return None
    paths = [each.string("path") for each in namespaces if each.string("type") == "network"]
    return (paths[0] or None) if paths else ""


def _variable(table: "_Table", entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals or not name:
        raise InvalidArgument(f"{table.path}.env has {entry!r}, which is not NAME=VALUE")
    return name, value


def _mount(table: "_Table") -> Mount:
    destination = table.string("destination")
    if not destination.startswith("/"):
        raise InvalidArgument(f"{table.path}.destination must be absolute, not {destination!r}")
    return Mount(
        destination=destination,
        kind=table.string("type", "bind"),
        source=table.string("source"),
        options=tuple(table.list("options", str)),
    )


def _resources(table: "_Table") -> Resources:
    memory, cpu = table.table("memory"), table.table("cpu")
    return Resources(
        memory=memory.integer("limit", least=-1) or None,  # 0 is how Go writes what was not said
        cpu_shares=cpu.integer("shares", *_UINT64) or None,
        cpu_quota=cpu.integer("quota") or None,
        cpu_period=cpu.integer("period", *_UINT64) or None,
        cpu_burst=cpu.integer("burst", *_UINT64),
        cpus=cpu.string("cpus") or None,
        mems=cpu.string("mems") or None,
        pids=table.table("pids").integer("limit") or None,
    )


def _not_honoured(table: "_Table", linux: "_Table") -> list[str]:
    """What the spec asks for that means nothing to a guest without users, syscalls or devices."""
    process = table.table("process")
    ignored = [
        f"process.{name}"
        for name in ("capabilities", "rlimits", "apparmorProfile", "selinuxLabel")
        if process.has(name)
    ]
    user = _user(process.table("user"))
    if any((user.uid, user.gid, *user.groups)):
        ignored.append("process.user")
    names = ("devices", "seccomp", "sysctl", "maskedPaths", "readonlyPaths", "uidMappings", "rootfsPropagation")
    ignored += [f"linux.{name}" for name in names if linux.has(name)]
    ignored += [name for name in ("hooks", "hostname") if table.has(name)]
    return ignored


def _object(data: bytes, path: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode())  # which is strict, where json itself would let halves of a character pass
        if _HALF.search(data):
            _require_text(value, path)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path} must be an object")
    return value


def _require_text(value: Any, path: str) -> None:
    """Raise InvalidArgument for a string or name in it with half a character: it could be put into no message."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{path} is no text: {value!r:.60} has half a pair of surrogates") from None
    elif isinstance(value, dict):
        for name, item in value.items():
            _require_text(name, f"a name in {path}")
            _require_text(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_text(item, f"{path}[{index}]")


class _Table:
    """A JSON object with its path; a missing field has a default, one of the wrong type is refused.

    Strings are interned: a node's containers say mostly the same, and keep it as long as they live.
    """

    def __init__(self, path: str, values: Mapping[str, Any]) -> None:
        self.path = path
        self._values = values

    def has(self, name: str) -> bool:
        return bool(self._values.get(name))

    def table(self, name: str) -> "_Table":
        return _Table(f"{self.path}.{name}", self._get(name, dict, {}, "an object"))

    def tables(self, name: str) -> "list[_Table]":
        return [_Table(f"{self.path}.{name}[{index}]", item) for index, item in enumerate(self.list(name, dict))]

    def list(self, name: str, kind: type[Any]) -> list[Any]:
        items: list[Any] = self._get(name, list, [], "a list")
        for index, item in enumerate(items):
            if not isinstance(item, kind):
                raise InvalidArgument(f"{self.path}.{name}[{index}] must be {_NAMES[kind]}, not {item!r:.60}")
        return [sys.intern(item) for item in items] if kind is str else items

    def strings(self, name: str) -> Mapping[str, str]:
        table = self.table(name)
        return {sys.intern(key): table._text(key) for key in table._values}  # noqa: SLF001

    def string(self, name: str, default: str = "") -> str:
        """Text for the kernel, which takes a NUL byte for its end."""
        value = self._text(name, default)
        if "\0" in value:
            raise InvalidArgument(f"{self.path}.{name} has a NUL byte in it: {value!r:.60}")
        return value

    def _text(self, name: str, default: str = "") -> str:
        return sys.intern(self._get(name, str, default, "a string"))

    def boolean(self, name: str) -> bool:
        value: bool = self._get(name, bool, default=False, wanted="true or false")
        return value

    def integer(self, name: str, least: int = _INT64[0], most: int = _INT64[1]) -> int | None:
        value: int | None = self._get(name, int, None, "a whole number")
        if value is not None and not least <= value <= most:
            raise InvalidArgument(f"{self.path}.{name} must be from {least} to {most}, not {value!r:.60}")
        return value

    def value(self, name: str) -> Mapping[str, Any]:
        """An object as it is, for somebody else to read."""
        value: Mapping[str, Any] = self._get(name, dict, {}, "an object")
        return value

    def _get(self, name: str, kind: type[Any], default: Any, wanted: str) -> Any:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidArgument(f"{self.path}.{name} must be {wanted}, not {value!r:.60}")
        return value


_NAMES: Mapping[type[Any], str] = {str: "a string", dict: "an object", int: "a whole number"}
