"""What Prometheus is told: what is counted as it happens, and what is looked up when it asks.

The registry belongs to whoever makes an Exporter; nothing here is global. Counting is for any thread. Figures of the
daemon's state are taken on the loop, as one value, and written out in another thread: with a thousand containers the
text takes some milliseconds. Each metric stands in docs/statistics.md.
"""

import asyncio
import threading
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from wasm_sandboxer import __version__
from wasm_sandboxer.api.services import SERVICES
from wasm_sandboxer.core.observer import CONTAINER, EXEC
from wasm_sandboxer.core.sandboxer import Sandboxer
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Source
from wasm_sandboxer.guest import Reason
from wasm_sandboxer.lifecycle import State
from wasm_sandboxer.rpc.call import Context
from wasm_sandboxer.rpc.transport.status import RpcError

_PREFIX = "wasm_sandboxer"
_START = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)  # seconds
_COMPILE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_RPC = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30)
_METHODS = frozenset((service, method) for service, methods in SERVICES.items() for method in methods)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The daemon's state in numbers, at one time."""

    ready: int = 0
    not_ready: int = 0
    containers: Mapping[State, int] = field(default_factory=dict)
    execs: int = 0
    memory: int = 0
    memory_limit: int | None = None
    memory_refused: int = 0
    events: int = 0
    cpu: float | None = None


class Exporter:
    """The metrics of one daemon: core's Observer, the engine's LoadObserver, the transports' Observe."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = _StateCollector()
        self._registry = registry = CollectorRegistry()
        registry.register(self._state)
        ProcessCollector(registry=registry)
        about = Gauge(f"{_PREFIX}_build_info", "Which daemon this is: always 1.", ["version"], registry=registry)
        about.labels(__version__).set(1)
        self._starts = Histogram(
            f"{_PREFIX}_start_seconds", "From the request to start a process until it runs.", ["kind"],
            buckets=_START, registry=registry,
        )  # fmt: skip
        self._start_failures = Counter(
            f"{_PREFIX}_start_failures", "Processes that could not be started.", ["kind"], registry=registry
        )
        self._exits = Counter(
            f"{_PREFIX}_exits", "Processes that have ended, by why.", ["kind", "reason"], registry=registry
        )
        self._loads = Counter(
            f"{_PREFIX}_module_loads", "Modules that were asked for, by where they were found.", ["source"],
            registry=registry,
        )  # fmt: skip
        self._compiles = Histogram(
            f"{_PREFIX}_compile_seconds", "What compiling a module took.", buckets=_COMPILE, registry=registry
        )
        self._rpcs = Histogram(
            f"{_PREFIX}_rpc_seconds", "Calls from their arrival to their answer.", ["service", "method", "code"],
            buckets=_RPC, registry=registry,
        )  # fmt: skip
        self._calls: dict[tuple[str, str, str], Histogram] = {}
        for kind in (CONTAINER, EXEC):  # from 0 on, so that the first of each is seen as an increase
            self._starts.labels(kind)
            self._start_failures.labels(kind)
            for reason in Reason:
                self._exits.labels(kind, reason)
        for source in Source:
            self._loads.labels(source)

    # ---- what happens ----

    def started(self, kind: str, seconds: float) -> None:
        """See core's Observer."""
        self._starts.labels(kind).observe(seconds)

    def start_failed(self, kind: str) -> None:
        """See core's Observer."""
        self._start_failures.labels(kind).inc()

    def ended(self, kind: str, reason: Reason) -> None:
        """See core's Observer."""
        self._exits.labels(kind, reason).inc()

    def loaded(self, source: Source, compile_seconds: float) -> None:
        """See engine's LoadObserver."""
        self._loads.labels(source).inc()
        if source is Source.COMPILED:
            self._compiles.observe(compile_seconds)

    def answered(self, call: Context, error: RpcError | None, seconds: float) -> None:
        """A call has its answer. What no service offers is one method, however many names it is called by."""
        service, method = call.service, call.method
        if (service, method) not in _METHODS:
            service = method = "other"
        key = (service, method, "ok" if error is None else error.code.name.lower())
        child = self._calls.get(key)
        if child is None:
            child = self._calls[key] = self._rpcs.labels(*key)
        child.observe(seconds)

    # ---- what is told ----

    @staticmethod
    def figures(sandboxer: Sandboxer, pool: MemoryPool, events: int) -> Figures:
        """What there is now; on the loop. `pool` is the node's."""
        sandboxes, tasks = sandboxer.sandboxes(), sandboxer.tasks()
        ready = sum(1 for sandbox in sandboxes if sandbox.ready)
        running = (1 for task in tasks for each in task.execs.values() if each.begun and not each.exited.done())
        return Figures(
            ready=ready,
            not_ready=len(sandboxes) - ready,
            containers=Tally(task.init.state for task in tasks),
            execs=sum(running),
            memory=pool.used,
            memory_limit=pool.limit,
            memory_refused=pool.refused,
            events=events,
            cpu=sandboxer.cpu_time(),
        )

    async def text(self, now: Figures) -> bytes:
        """Everything in Prometheus' text format."""
        return await asyncio.to_thread(self._write, now)

    def _write(self, now: Figures) -> bytes:
        with self._lock:
            self._state.now = now
            return generate_latest(self._registry)


class _StateCollector:
    """The figures as metrics."""

    now = Figures()

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked up before somebody asks."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client's Collector."""
        now = self.now
        pods = GaugeMetricFamily(f"{_PREFIX}_sandboxes", "Sandboxes, by state.", labels=["state"])
        pods.add_metric(["ready"], now.ready)
        pods.add_metric(["not_ready"], now.not_ready)
        yield pods
        containers = GaugeMetricFamily(f"{_PREFIX}_containers", "Containers, by state.", labels=["state"])
        for state in State:
            containers.add_metric([state], now.containers.get(state, 0))
        yield containers
        yield GaugeMetricFamily(f"{_PREFIX}_execs", "Execs that run.", now.execs)
        yield GaugeMetricFamily(f"{_PREFIX}_memory_bytes", "Memory that guests on threads use.", now.memory)
        if now.memory_limit is not None:
            about = "Memory that guests on threads may use together."
            yield GaugeMetricFamily(f"{_PREFIX}_memory_limit_bytes", about, now.memory_limit)
        about = "Requests for memory that the node's own limit refused."
        yield CounterMetricFamily(f"{_PREFIX}_memory_refusals", about, now.memory_refused)
        if now.cpu is not None:
            about = "CPU time of all sandboxes, as the kernel counts their groups."
            yield CounterMetricFamily(f"{_PREFIX}_guest_cpu_seconds", about, now.cpu)
        yield GaugeMetricFamily(f"{_PREFIX}_events_waiting", "Events that containerd has not taken yet.", now.events)
