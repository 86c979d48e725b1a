"""Whoever counts what happens to containers, if anybody does. Loop thread only."""

from typing import Protocol

from wasm_sandboxer.guest import Reason

CONTAINER, EXEC = "container", "exec"


class Observer(Protocol):
    """Told of each process, which is a CONTAINER's first or an EXEC; must not wait or raise."""

    def started(self, kind: str, seconds: float) -> None:
        """One runs, so long after it was asked for."""

    def start_failed(self, kind: str) -> None:
        """One could not be started."""

    def ended(self, kind: str, reason: Reason) -> None:
        """One has ended."""


class Nobody:
    """See Observer: counts nothing."""

    def started(self, kind: str, seconds: float) -> None:
        """See Observer."""

    def start_failed(self, kind: str) -> None:
        """See Observer."""

    def ended(self, kind: str, reason: Reason) -> None:
        """See Observer."""
