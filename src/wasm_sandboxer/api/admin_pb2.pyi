import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("daemon", "sandboxes", "containers")
    DAEMON_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    daemon: Daemon
    sandboxes: _containers.RepeatedCompositeFieldContainer[Sandbox]
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    def __init__(self, daemon: _Optional[_Union[Daemon, _Mapping]] = ..., sandboxes: _Optional[_Iterable[_Union[Sandbox, _Mapping]]] = ..., containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ...) -> None: ...

class Daemon(_message.Message):
    __slots__ = ("version", "pid", "started_at")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    started_at: _timestamp_pb2.Timestamp
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Sandbox(_message.Message):
    __slots__ = ("namespace", "id", "name", "handler", "ready", "created_at", "netns", "cpu_usec", "memory", "memory_resident", "memory_limit", "threads", "containers", "memory_kills")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HANDLER_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    NETNS_FIELD_NUMBER: _ClassVar[int]
    CPU_USEC_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_KILLS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    id: str
    name: str
    handler: str
    ready: bool
    created_at: _timestamp_pb2.Timestamp
    netns: str
    cpu_usec: int
    memory: int
    memory_resident: int
    memory_limit: int
    threads: int
    containers: int
    memory_kills: int
    def __init__(self, namespace: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., handler: _Optional[str] = ..., ready: _Optional[bool] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., netns: _Optional[str] = ..., cpu_usec: _Optional[int] = ..., memory: _Optional[int] = ..., memory_resident: _Optional[int] = ..., memory_limit: _Optional[int] = ..., threads: _Optional[int] = ..., containers: _Optional[int] = ..., memory_kills: _Optional[int] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("namespace", "id", "sandbox", "pod", "name", "image", "module", "args", "state", "pid", "created_at", "started_at", "exited_at", "exit_status", "reason", "message", "cpu_usec", "memory", "memory_limit", "execs", "bundle", "preopens", "memory_resident", "memory_peak", "threads", "memory_kills")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODULE_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    EXITED_AT_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CPU_USEC_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EXECS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    PREOPENS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_KILLS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    id: str
    sandbox: str
    pod: str
    name: str
    image: str
    module: str
    args: _containers.RepeatedScalarFieldContainer[str]
    state: str
    pid: int
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    exited_at: _timestamp_pb2.Timestamp
    exit_status: int
    reason: str
    message: str
    cpu_usec: int
    memory: int
    memory_limit: int
    execs: int
    bundle: str
    preopens: _containers.RepeatedCompositeFieldContainer[Preopen]
    memory_resident: int
    memory_peak: int
    threads: int
    memory_kills: int
    def __init__(self, namespace: _Optional[str] = ..., id: _Optional[str] = ..., sandbox: _Optional[str] = ..., pod: _Optional[str] = ..., name: _Optional[str] = ..., image: _Optional[str] = ..., module: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., exited_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., exit_status: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., cpu_usec: _Optional[int] = ..., memory: _Optional[int] = ..., memory_limit: _Optional[int] = ..., execs: _Optional[int] = ..., bundle: _Optional[str] = ..., preopens: _Optional[_Iterable[_Union[Preopen, _Mapping]]] = ..., memory_resident: _Optional[int] = ..., memory_peak: _Optional[int] = ..., threads: _Optional[int] = ..., memory_kills: _Optional[int] = ...) -> None: ...

class Preopen(_message.Message):
    __slots__ = ("guest", "host", "writable")
    GUEST_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    guest: str
    host: str
    writable: bool
    def __init__(self, guest: _Optional[str] = ..., host: _Optional[str] = ..., writable: _Optional[bool] = ...) -> None: ...
