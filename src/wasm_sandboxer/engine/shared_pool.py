"""Pools that a guest in a process of its own charges: its container's and its pod's.

The daemon claims them for a child and sends it their pages; the child charges its claim, and with that the pools.
When it has ended, the claim is closed, and the pools count on with what the others have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.shared_page import CLAIMS, SharedPage
from wasm_sandboxer.errors import ResourceExhausted


@dataclass(frozen=True)
class Share:
    """What a child has to know of the pools, the nearest first: their names, and which claim is its own."""

    names: tuple[str, ...]
    claim: int


class Claim:
    """One child's; loop thread only. Its owner closes it when the child has ended."""

    def __init__(self, pool: MemoryPool) -> None:
        """Raises OSError, and ResourceExhausted if too many children are in the container."""
        self._pools = _shared(pool)
        pages = [each.share() for each in self._pools]
        taken = {number for _, number in pages[0].claims}
        number = next((number for number in range(CLAIMS) if number not in taken), None)
        if number is None:
            raise ResourceExhausted(f"it has {CLAIMS} guests in processes already, which is as many as can be")
        pages[0].clear_claim(number)
        self._claim = pages[0], number
        for page in pages:
            page.claims.add(self._claim)
        self.descriptors = [page.fd for page in pages]
        """Of the pools' pages, the nearest first; they stay the pools'."""
        self.share = Share(tuple(each.what for each in self._pools), number)
        """What the child is told."""

    def close(self) -> None:
        """The child has ended; idempotent."""
        for each in self._pools:
            each.share().claims.discard(self._claim)
            each.settle()
        self._pools = []


def pool_of(share: Share, fds: Sequence[int]) -> MemoryPool:
    """The child's end: what its guest's pool lies in. The descriptors can be closed then; raises OSError."""
    pool: MemoryPool | None = None
    page: SharedPage | None = None
    for name, fd in reversed(list(zip(share.names, fds, strict=True))):
        page = SharedPage(fd)
        pool = MemoryPool.in_page(name, page, pool)
    assert pool is not None  # there is at least one
    assert page is not None
    return MemoryPool.claim_in(share.names[0], page, share.claim, pool)


def _shared(pool: MemoryPool) -> list[MemoryPool]:
    """The pools from this one up that count guests in processes too."""
    found = []
    above: MemoryPool | None = pool
    while above is not None and not above.threads_only:
        found.append(above)
        above = above.parent
    return found
