"""Waiting for what is told by figures: on a busy machine nothing is sure to have happened after some time."""

import time
from collections.abc import Callable

from tests.support.cli import PATIENCE


def stands_still(figure: Callable[[], int], seconds: float = 0.2) -> int:
    """Wait until a figure does not change for so long, and give it."""
    deadline = time.monotonic() + PATIENCE
    before = figure()
    while True:
        time.sleep(seconds)
        if (now := figure()) == before:
            return now
        assert time.monotonic() < deadline, f"it goes on: {before}, then {now}"
        before = now


def comes(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
