"""What a pod's bounds become when one of its containers is resized."""

import pytest

from wasm_sandboxer.core.resizing import raised
from wasm_sandboxer.spec import Resources

TWENTY = Resources(cpu_quota=20_000, cpu_period=100_000, cpu_shares=200, memory=20)
FORTY = Resources(cpu_quota=20_000, cpu_period=50_000, cpu_shares=400, memory=40)


def test_a_pod_that_covers_its_containers_goes_on_covering_them() -> None:
    pod = Resources(cpu_quota=40_000, cpu_shares=400, memory=40)
    assert raised(pod, [TWENTY], TWENTY, FORTY) == Resources(cpu_quota=60_000, cpu_shares=600, memory=60)


def test_a_pod_that_has_less_than_its_containers_gets_what_one_of_them_has_at_most() -> None:
    pod = Resources(cpu_quota=30_000, cpu_period=100_000, cpu_shares=300, memory=30)
    more = Resources(cpu_quota=40_000, cpu_period=100_000, cpu_shares=400, memory=40)
    assert raised(pod, [TWENTY], TWENTY, FORTY) == more
    assert raised(more, [FORTY], TWENTY, FORTY) == more


@pytest.mark.parametrize("pod", [Resources(), Resources(cpu_quota=-1, memory=-1), Resources(cpu_period=100_000)])
def test_a_pod_without_bounds_gets_none(pod: Resources) -> None:
    assert raised(pod, [], TWENTY, FORTY) == pod


def test_a_container_that_loses_its_bounds_leaves_the_pod_its_own() -> None:
    unbound = TWENTY.updated(Resources(cpu_quota=-1, memory=-1))
    assert raised(TWENTY, [], TWENTY, unbound) == TWENTY
    assert raised(FORTY, [unbound], TWENTY, TWENTY) == FORTY


def test_what_shrinks_leaves_the_pod_as_it_is() -> None:
    assert raised(FORTY, [], FORTY, TWENTY) == FORTY
