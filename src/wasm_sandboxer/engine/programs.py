"""The programs an engine has loaded: shared by content, kept while anybody uses them, the latest beyond that."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_KEPT = 32
P = TypeVar("P")


class _Making(Generic[P]):
    """A program that one thread makes and others wait for: what has become of it, once it is `done`."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.program: P | None = None
        self.error: Exception | None = None


class Programs(Generic[P]):
    """By digest of their source; any thread. Those who want the same one wait for whoever makes it.

    They have what that comes to, its failure too: each trying again what has just taken up all of its time, a
    hundred replicas of one module that does not compile would do so for hours.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: dict[str, _Making[P]] = {}
        self._known: weakref.WeakValueDictionary[str, P] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, P] = OrderedDict()

    def get(self, digest: str, make: Callable[[], P]) -> P:
        """The program of this source, made if there is none; raises what making it raises."""
        with self._lock:
            program = self._known.get(digest)
            others = self._making.get(digest)
            if program is None and others is None:
                making = self._making[digest] = _Making()
        if program is not None:
            self._remember(digest, program)
            return program
        if others is not None:
            return _wait_for(others)
        try:
            program = making.program = make()
            self._remember(digest, program)  # before anybody could look for it and find nobody who makes it
        except Exception as error:
            making.error = error
            raise
        finally:
            with self._lock:
                del self._making[digest]
            making.done.set()
        return program

    def _remember(self, digest: str, program: P) -> None:
        with self._lock:
            self._known[digest] = program
            self._recent[digest] = program
            self._recent.move_to_end(digest)
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)


def _wait_for(making: _Making[P]) -> P:
    making.done.wait()
    if making.program is not None:
        return making.program
    raise making.error or RuntimeError("whoever made the program was ended")
