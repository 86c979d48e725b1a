"""Tables of figures, printed as they come and kept as JSON.

A row is a set of samples, shown as min, p50, p99 and max; a figure of the project's stands beside a floor or a
rival that was measured in the same run, for the machine is shared and its noise with it. A target is met or
missed by one of the columns.
"""

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import wasm_sandboxer
from wasm_sandboxer.engine.wasmtime.binding import VERSION

RESULTS = Path(__file__).resolve().parent / "results"
_LABEL = 66  # characters


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a column of a row may be, in the row's unit."""

    column: str = "max"
    at_most: float = math.inf
    at_least: float = -math.inf

    def __str__(self) -> str:
        if math.isinf(self.at_least):
            return f"{self.column} ≤ {self.at_most:g}"
        if math.isinf(self.at_most):
            return f"{self.column} ≥ {self.at_least:g}"
        return f"{self.column} {self.at_least:g} to {self.at_most:g}"

    def met(self, value: float) -> bool:
        """Whether a figure is as it should be."""
        return self.at_least <= value <= self.at_most


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    label: str
    unit: str
    count: int
    min: float
    p50: float
    p99: float
    max: float
    target: str = ""
    met: bool | None = None


@dataclass
class Report:
    """The figures of one benchmark. `quick`: only to see that it runs; the figures mean little."""

    name: str
    quick: bool = False
    tables: list[dict[str, Any]] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _load: float = field(default_factory=lambda: os.getloadavg()[0])

    def rounds(self, many: int, few: int = 3) -> int:
        """How often to repeat."""
        return few if self.quick else many

    def table(self, title: str, note: str = "") -> None:
        """Begin a table; `note` says what was done to get the figures."""
        self.tables.append({"title": title, "note": note, "rows": []})
        print(f"\n{self.name}: {title}" + (f"\n    {note}" if note else ""))
        columns = "".join(f"{name:>9}" for name in ("n", "min", "p50", "p99", "max"))
        print(f"  {'':{_LABEL}}{columns}  unit   target", flush=True)

    def row(self, label: str, samples: Sequence[float], unit: str = "ms", target: Target | None = None) -> Row:
        """Add a line to the table."""
        columns = summary(samples)
        row = Row(
            label=label,
            unit=unit,
            count=len(samples),
            **columns,
            target=str(target or ""),
            met=None if target is None else target.met(columns[target.column]),
        )
        kept = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(row).items()
        }
        self.tables[-1]["rows"].append(kept)
        numbers = "".join(f"{_short(columns[name]):>9}" for name in ("min", "p50", "p99", "max"))
        verdict = "" if target is None else f"   {target}: {'met' if row.met else 'MISSED'}"
        print(f"  {label:{_LABEL}}{row.count:9}{numbers}  {unit:4}{verdict}", flush=True)
        return row

    def note(self, text: str) -> None:
        """Say something of the table just made."""
        self.tables[-1]["note"] = f"{self.tables[-1]['note']} {text}".strip()
        print(f"    {text}", flush=True)

    def save(self, folder: Path) -> Path:
        """Write everything to NAME.json in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        about = {
            "name": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._begun),
            "quick": self.quick,
            "commit": _commit(),
            "machine": machine(),
            "load": [self._load, os.getloadavg()[0]],
            "tables": self.tables,
        }
        path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        return path


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Min, p50, p99 and max; a percentile is the sample at its nearest rank. Not numbers where nothing was seen."""
    if not samples:
        return dict.fromkeys(("min", "p50", "p99", "max"), math.nan)
    ordered = sorted(samples)
    at = [ordered[math.ceil(share * len(ordered)) - 1] for share in (0.50, 0.99)]
    return {"min": ordered[0], "p50": at[0], "p99": at[1], "max": ordered[-1]}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "wasmtime": VERSION,
        "root": os.geteuid() == 0,
    }


def _commit() -> str:
    """What was measured, as git names it."""
    measured = Path(wasm_sandboxer.__file__).parent
    command = ["git", "-C", str(measured), "describe", "--always", "--dirty"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _short(number: float) -> str:
    """Three significant digits, more where there are more before the point."""
    if number == 0 or math.isnan(number):
        return "0" if number == 0 else "-"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:.{min(digits, 4)}f}"
