"""Seccomp profiles of the runtime specification, made into filters by libseccomp; no filter is installed here.

libseccomp is asked for by ctypes, and may be missing: then there are no filters.
Source: runtime-spec, config-linux.md, "Seccomp"; seccomp_rule_add(3), seccomp_export_bpf(3).
"""

import ctypes
import ctypes.util
import errno
import functools
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from wasm_sandboxer.errors import InvalidArgument, WasmSandboxerError

_LIBRARY = "libseccomp.so.2"
_ACTIONS = {
    "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x30000,
    "SCMP_ACT_ERRNO": 0x50000, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000,
}  # fmt: skip
_OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
_MOST_BYTES = 32767 * 8  # a filter has at most 4096 instructions, libseccomp may try for more


class _Argument(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_uint), ("operator", ctypes.c_int), ("one", ctypes.c_uint64), ("two", ctypes.c_uint64),
    )  # fmt: skip


def is_available() -> bool:
    """Whether profiles can be made into filters on this host."""
    return _library() is not None


def compile_profile(profile: Mapping[str, Any]) -> bytes:
    """The filter's instructions for this machine; raises InvalidArgument for what is no profile. Any thread."""
    return _compile(json.dumps(profile, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _compile(text: str) -> bytes:
    try:
        return _filter(json.loads(text))
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"config.json.linux.seccomp makes no sense: {error!r}") from None


def _filter(profile: Mapping[str, Any]) -> bytes:
    library = _library()
    assert library is not None  # is_available() was asked
    with ExitStack() as undo:
        default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
        context = library.seccomp_init(default)
        if not context:
            raise WasmSandboxerError("libseccomp makes no filter")
        undo.callback(library.seccomp_release, context)
        for name in profile.get("architectures") or ():
            _add_architecture(library, context, name)
        for rule in profile.get("syscalls") or ():
            action = _action(rule["action"], rule.get("errnoRet"))
            if action == default:
                continue
            for name in rule["names"]:
                _add_rule(library, context, action, name, rule.get("args") or ())
        file = os.memfd_create("filter", os.MFD_CLOEXEC)
        undo.callback(os.close, file)
        _check(library.seccomp_export_bpf(context, file), "it cannot be compiled")
        return os.pread(file, _MOST_BYTES, 0)


def _action(name: str, number: int | None) -> int:
    if name not in _ACTIONS:
        raise InvalidArgument(f"config.json.linux.seccomp has the action {name!r}, which is not offered here")
    if name == "SCMP_ACT_ERRNO":
        return _ACTIONS[name] | (errno.EPERM if number is None else number) & 0xFFFF
    return _ACTIONS[name]


def _add_architecture(library: ctypes.CDLL, context: int, name: str) -> None:
    token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    if token:  # else this libseccomp does not know it, and nothing of it runs here
        result = library.seccomp_arch_add(context, token)
        if result != -errno.EEXIST:
            _check(result, f"{name} cannot be added")


def _add_rule(
    library: ctypes.CDLL, context: int, action: int, name: str, conditions: Iterable[Mapping[str, Any]]
) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == -1:
        return  # a call that this libseccomp does not know, and so falls under the default
    arguments = [
        _Argument(each["index"], _OPERATORS[each["op"]], each.get("value", 0), each.get("valueTwo", 0))
        for each in conditions
    ]
    indexes = [each.index for each in arguments]
    # A rule takes one condition for each argument: those that ask twice of one are alternatives.
    groups = [arguments] if len(set(indexes)) == len(indexes) else [[each] for each in arguments]
    for group in groups:
        array = (_Argument * len(group))(*group)
        result = library.seccomp_rule_add_array(context, action, number, len(group), array)
        if result != -errno.EDOM:  # a call that one of the architectures does not have
            _check(result, f"the rule for {name} cannot be added")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise InvalidArgument(f"config.json.linux.seccomp: {what}: {os.strerror(-result)}")


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Argument),
    ]  # fmt: skip
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library
