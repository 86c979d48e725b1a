"""The programs an engine has loaded: shared by content, kept while anybody uses them, the latest beyond that."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_KEPT = 32
P = TypeVar("P")


class Programs(Generic[P]):
    """By digest of their source; any thread. Those who want the same one wait for whoever makes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._known: weakref.WeakValueDictionary[str, P] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[str, P] = OrderedDict()

    def get(self, digest: str, make: Callable[[], P]) -> P:
        """The program of this source, made if there is none; raises what making it raises."""
        with self._lock:
            program = self._known.get(digest)
            turn = self._making.setdefault(digest, threading.Lock())
        if program is None:
            with turn:
                program = self._known.get(digest) or make()
                self._remember(digest, program)  # before the next in line looks for it
        self._remember(digest, program)
        return program

    def _remember(self, digest: str, program: P) -> None:
        with self._lock:
            self._known[digest] = program
            self._recent[digest] = program
            self._recent.move_to_end(digest)
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
