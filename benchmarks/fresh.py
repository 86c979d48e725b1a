"""One function in a fresh Python, so that no measurement sees another's threads, memory or modules.

`fresh(function, …)` here is `python -m benchmarks.fresh MODULE FUNCTION ARGUMENTS` there: keyword arguments and
the result are JSON. The function must stand in a module and must not write to stdout.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import summary

CHECKOUT = Path(__file__).resolve().parents[1]


def fresh(function: Callable[..., Any], **arguments: Any) -> Any:
    """The function's result, computed in a process of its own."""
    command = [
        sys.executable, "-m", __name__, function.__module__, function.__qualname__, json.dumps(arguments),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def quietest(count: int, floor: str, column: str, function: Callable[..., Any], **arguments: Any) -> Any:
    """Of so many results, each of a process of its own, the one whose floor was least disturbed by others.

    `floor` names the samples to judge by and `column` what of them counts: "p50", or "p99" where that is looked at.
    """
    runs = [fresh(function, **arguments) for _ in range(count)]
    return min(runs, key=lambda run: summary(run[floor])[column])


def _main(module: str, name: str, arguments: str) -> None:
    function = getattr(importlib.import_module(module), name)
    print(json.dumps(function(**json.loads(arguments))), flush=True)
    os._exit(0)  # guests that still run keep nobody waiting


if __name__ == "__main__":
    _main(*sys.argv[1:])
