"""Ids that come from outside and end up in paths, thread names and logs; pure."""

import re

from wasm_sandboxer.errors import InvalidArgument

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_LONGEST = 76  # containerd's own bound on identifiers
_JOINT = "--"  # which no identifier can hold, begin or end with a part of


def identifier(what: str, value: str) -> str:
    """The value if it is safe as a name (containerd's own rule); raises InvalidArgument."""
    if len(value) > _LONGEST or not _IDENTIFIER.fullmatch(value):
        raise InvalidArgument(
            f"{what} {value!r:.100} must be letters and digits with single . _ - between, at most {_LONGEST}"
        )
    return value


def joined(*identifiers: str) -> str:
    """One name for all of them, in their order, that no others have."""
    return _JOINT.join(identifiers)
