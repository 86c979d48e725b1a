"""Programs that are shared: who asks while one is being made has what that comes to."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest

from tests.support.cli import PATIENCE
from wasm_sandboxer.engine import programs
from wasm_sandboxer.engine.programs import Programs
from wasm_sandboxer.errors import ModuleError

wait_for = programs._wait_for


class Program:
    pass


def test_who_waits_for_what_cannot_be_made_is_told_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    waiting = threading.Semaphore(0)

    def count(making: programs._Making[Program]) -> Program:
        waiting.release()
        return wait_for(making)

    def fail() -> NoReturn:
        made.append(len(made))
        for _ in range(7):
            assert waiting.acquire(timeout=PATIENCE)
        raise ModuleError("it cannot be")

    monkeypatch.setattr(programs, "_wait_for", count)
    shared: Programs[Program] = Programs()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(shared.get, "digest", fail) for _ in range(8)]
        for call in calls:
            with pytest.raises(ModuleError, match="it cannot be"):
                call.result(PATIENCE)
    assert len(made) == 1
    assert shared.get("digest", Program) is shared.get("digest", Program)  # the next tries anew


def test_others_are_made_meanwhile() -> None:
    shared: Programs[Program] = Programs()
    begun, go = threading.Event(), threading.Event()

    def slow() -> Program:
        begun.set()
        assert go.wait(PATIENCE)
        return Program()

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(shared.get, "slow", slow) for _ in range(2)]
        assert begun.wait(PATIENCE)
        assert shared.get("other", Program) is not None
        go.set()
        assert calls[0].result(PATIENCE) is calls[1].result(PATIENCE)
