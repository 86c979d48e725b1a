"""Memory pools: how much linear memory guests may have together, counted as they grow.

A pool has a limit and perhaps a parent: a guest's pool lies in its container's, that in its pod's, that in the
node's. What is charged to one is charged to all above it, or to none if one of them refuses. Guests charge and
release from machine code (counting.py).

With several levels there is an instant in which a request that a parent is about to refuse is counted in the child;
another request that comes in it may be refused too. No count ever exceeds its limit.

Guests in processes of their own charge their container's pool and their pod's as well: the counts of those lie in
pages that the processes share, from the first such guest on (shared_pool.py).
"""

import ctypes

from wasm_sandboxer.engine import counting
from wasm_sandboxer.engine.counting import NO_LIMIT, WORD
from wasm_sandboxer.engine.shared_page import SharedPage

# Python forgets the type of an array with its last object, and to make one takes longer than all else here.
_Words = ctypes.c_uint64 * (counting.SIZE // WORD)
_Count = ctypes.c_uint64 * (counting.COUNT_SIZE // WORD)
_LOOKS = 8  # at figures that stand still, to believe them


class MemoryPool:
    """A count of bytes with a limit; any thread. Lives as long as anybody may charge it."""

    def __init__(
        self, what: str, limit: int | None = None, parent: "MemoryPool | None" = None, *, threads_only: bool = False
    ) -> None:
        """`what` names it for people ("the pod's"); no limit but the parents' with None.

        With `threads_only` guests in processes of their own do not count in it.
        """
        self.what = what
        self.parent = parent
        self.threads_only = threads_only
        self.page: SharedPage | None = None
        self.reserved = 0  # bytes
        self._words = _Words()
        self.address = ctypes.addressof(self._words)
        self._words[counting.PARENT // WORD] = parent.address if parent is not None else 0
        self._count_in(self.address + counting.OWN_COUNT)
        self._words[counting.BOUND // WORD] = self.address + counting.OWN_LIMIT
        self.limit = limit

    @classmethod
    def in_page(cls, what: str, page: SharedPage, parent: "MemoryPool | None") -> "MemoryPool":
        """One that another process keeps: its count and its limit are those of the page."""
        pool = cls(what, None, parent)
        pool.page = page
        pool._count_in(page.count)  # its own
        pool._words[counting.BOUND // WORD] = page.bound
        return pool

    @classmethod
    def claim_in(cls, what: str, page: SharedPage, claim: int, parent: "MemoryPool") -> "MemoryPool":
        """What one child has charged to its parents, counted where whoever made the page finds it."""
        pool = cls(what, None, parent)
        pool.page = page
        pool._count_in(page.claim(claim))  # its own
        return pool

    @property
    def limit(self) -> int | None:
        """The most there may be, in bytes. One that is set below what is used refuses growth, and takes nothing."""
        # Safe: the word is the pool's own, or in a page that it holds.
        limit = ctypes.c_uint64.from_address(self._words[counting.BOUND // WORD]).value
        return None if limit == NO_LIMIT else limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        # What decides for this process's guests is not in the page, which a child may be able to write to.
        self._words[counting.OWN_LIMIT // WORD] = word = NO_LIMIT if limit is None else limit
        if self.page is not None:
            self.page.set_limit(word)

    @property
    def used(self) -> int:
        """Bytes charged now."""
        return self._count[counting.USED // WORD]

    @property
    def here(self) -> int:
        """Bytes of them that guests of this process have charged."""
        return self._words[counting.HERE // WORD]

    @property
    def refused(self) -> int:
        """How often this limit was the one that refused."""
        return self._count[counting.REFUSED // WORD]

    @property
    def denied(self) -> bool:
        """For a guest's own pool: whether its latest growth was refused, whoever refused it."""
        return bool(self._words[counting.DENIED // WORD])

    @property
    def denials(self) -> int:
        """For a guest's own pool: how many of its growths were refused."""
        return self._words[counting.DENIALS // WORD]

    @classmethod
    def of_guest(cls, limit: int | None, parent: "MemoryPool | None") -> "MemoryPool":
        """A guest's own pool in its container's, or for a guest in none, with its own limit."""
        return cls("its", None, parent) if parent is not None else cls("its", limit)

    def charge(self, size: int) -> "MemoryPool | None":
        """Count so many bytes here and in all parents; the pool that refuses, if one does."""
        # Safe: the addresses in the chain are those of pools that `parent` keeps alive.
        refusing = counting.charge()(self.address, size)
        pool: MemoryPool | None = self
        while refusing and pool is not None and pool.address != refusing:
            pool = pool.parent
        return pool if refusing else None

    def release(self, size: int) -> None:
        """Give back what was charged."""
        counting.release()(self.address, size)

    def room(self) -> int | None:
        """Bytes that could be charged now; None if nothing limits them."""
        rooms: list[int] = []
        pool: MemoryPool | None = self
        while pool is not None:
            if (limit := pool.limit) is not None:
                rooms.append(max(0, limit - pool.used))
            pool = pool.parent
        return min(rooms, default=None)

    def share(self) -> SharedPage:
        """The page with its count, where it is from now on; raises OSError. By one thread at a time, as `settle`."""
        if self.page is None:
            page = SharedPage.make()
            page.set_limit(self._words[counting.OWN_LIMIT // WORD])
            page.set_count(self.here + self.reserved, self.refused)
            self.page = page
            self._count_in(page.count)
            self.settle()  # what was charged meanwhile
        return self.page

    def close(self) -> None:
        """No more processes will charge it; idempotent. Those that do go on."""
        if self.page is not None:
            self.page.close()

    def settle(self) -> None:
        """Make the count what guests have charged here, and what children say they have.

        A child that dies gives nothing back; this is how the count comes right again. An error of one growth can stay
        until the next time, if that was half made for as long as this looks.
        """
        elsewhere = self.reserved + (self.page.claimed() if self.page is not None else 0)
        for _ in range(_LOOKS):
            here, used = self.here, self.used
            if (here, used) == (self.here, self.used):
                break
        self._apart().release((used - here - elsewhere) % (1 << 64))

    def reserve(self, size: int) -> bool:
        """Count what a native command may have, which tells nobody what it has; not in the parents.

        False if the limit refuses. By one thread at a time, as `settle`.
        """
        if self._apart().charge(size) is not None:
            return False
        self.reserved += size
        return True

    def give_back(self, size: int) -> None:
        """Count what was reserved no more."""
        self.reserved -= size
        self._apart().release(size)

    def _apart(self) -> "MemoryPool":
        """A pool of the same count and limit without a parent, which notes nothing as charged here."""
        apart = MemoryPool(self.what)
        apart._count_in(ctypes.addressof(self._count))  # of its own class
        apart._words[counting.BOUND // WORD] = self._words[counting.BOUND // WORD]
        return apart

    def _count_in(self, address: int) -> None:
        # Safe: the words are the pool's own, or those of a page that it holds.
        self._count = _Count.from_address(address)
        self._words[counting.COUNT // WORD] = address
