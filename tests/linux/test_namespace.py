"""A thread in a network namespace of others, and that it does not stay in there."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wasm_sandboxer.linux import namespace

pytestmark = pytest.mark.usefixtures("superuser")
_ENTER = namespace.set_namespace


def here() -> tuple[str, int]:
    """The calling thread's network namespace, and how many descriptors there are."""
    return os.readlink("/proc/thread-self/ns/net"), len(os.listdir("/proc/self/fd"))  # noqa: PTH115, PTH208


def test_the_calling_thread_alone_is_in_there_for_a_while(netns: Path) -> None:
    before = here()
    with ThreadPoolExecutor(1) as other:
        other.submit(int).result()  # now there is its thread: one that was made in there would be in there
        with namespace.within_network(str(netns)):
            assert here()[0] == f"net:[{netns.stat().st_ino}]"
            assert other.submit(here).result()[0] == before[0]
    assert here() == before


def test_a_failure_in_there_leads_back_too(netns: Path) -> None:
    before = here()
    with pytest.raises(KeyError), namespace.within_network(str(netns)):
        raise KeyError
    assert here() == before


@pytest.mark.parametrize("path", ["/proc/self/ns/uts", "/dev/null", "/run/netns/nobodys"])
def test_one_that_cannot_be_entered_changes_nothing(path: str) -> None:
    before = here()
    with pytest.raises(OSError, match=r"(?i)invalid argument|no such file"), namespace.within_network(path):
        pytest.fail("it was entered")
    assert here() == before


def test_a_thread_goes_back_as_soon_as_the_kernel_lets_it(
    netns: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, refusals = here(), [errno.ENOMEM] * 3

    def enter(fd: int, kind: int) -> None:
        if refusals and here()[0] != before[0]:
            raise OSError(refusals.pop(), "Cannot allocate memory")
        _ENTER(fd, kind)

    monkeypatch.setattr(namespace, "set_namespace", enter)
    monkeypatch.setattr(namespace, "_PAUSE", 0.001)
    with namespace.within_network(str(netns)):
        pass
    assert here() == before
    assert caplog.text.count("cannot leave a network namespace, and tries again: Cannot allocate memory") == 3
