"""The metrics messages: every part is there, whatever was counted."""

import pytest

from wasm_sandboxer.api import cgroups_v1_pb2, cgroups_v2_pb2, typeurl
from wasm_sandboxer.linux.cgroup.host import Version
from wasm_sandboxer.linux.cgroup.protocol import MemoryUsage, Usage
from wasm_sandboxer.rpc.metrics import metrics_message

PARTS = {
    Version.V1: (cgroups_v1_pb2.Metrics, ("pids", "cpu", "memory", "blkio", "memory_oom_control")),
    Version.V2: (cgroups_v2_pb2.Metrics, ("pids", "cpu", "memory", "io", "memory_events")),
}


@pytest.mark.parametrize("version", PARTS)
def test_every_part_that_clients_read_without_looking_is_there(version):
    """As nerdctl does, which a part that is missing makes crash."""
    kind, parts = PARTS[version]
    found = typeurl.unpack(metrics_message(version, Usage(), MemoryUsage()), kind)
    assert [part for part in parts if not found.HasField(part)] == []
    if version is Version.V1:
        assert found.cpu.HasField("usage")
        assert found.cpu.HasField("throttling")
        assert found.memory.HasField("usage")
