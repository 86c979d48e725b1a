"""What a pod's bounds become when one of its containers is resized; pure.

containerd tells of a pod's new bounds from 2.3 on, and before that of its containers' alone. So where a container
gets more than its pod has, the pod has to follow. The kubelet admits what it asks for, and bounds its own group.
"""

from collections.abc import Collection
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from wasm_sandboxer.spec import Resources

_PERIOD = 100_000  # microseconds; the kernel's own
_N = TypeVar("_N", int, Fraction)


def raised(pod: Resources, others: Collection[Resources], before: Resources, after: Resources) -> Resources:
    """The pod's bounds when a container's go from `before` to `after`; `others` are those beside it that run.

    They follow what the containers have together where they covered that before. Where they did not, the pod is meant
    to have less than the sum, and only as much as this one container has.
    """
    cpu = _raised(_cpu(pod), [_cpu(each) for each in others], _cpu(before), _cpu(after))
    shares = [each.cpu_shares for each in others]
    return replace(
        pod,
        memory=_raised(pod.most_memory, [each.most_memory for each in others], before.most_memory, after.most_memory)
        or pod.memory,
        cpu_quota=pod.cpu_quota if cpu is None or cpu == _cpu(pod) else -(-cpu * (pod.cpu_period or _PERIOD) // 1),
        cpu_shares=_raised(pod.cpu_shares, shares, before.cpu_shares, after.cpu_shares),
    )


def _raised(bound: _N | None, others: Collection[_N | None], before: _N | None, after: _N | None) -> _N | None:
    if bound is None or after is None:
        return bound
    beside = [each for each in others if each is not None]
    if before is not None and len(beside) == len(others) and sum(beside, before) <= bound:
        return max(bound, sum(beside, after))
    return max(bound, after)


def _cpu(resources: Resources) -> Fraction | None:
    """How many processors; None without a limit."""
    if resources.cpu_quota is None or resources.cpu_quota <= 0:
        return None
    return Fraction(resources.cpu_quota, resources.cpu_period or _PERIOD)
