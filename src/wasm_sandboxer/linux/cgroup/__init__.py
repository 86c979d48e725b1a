"""Control groups of either version behind one protocol: what the kernel bounds and counts for guests' threads."""

from wasm_sandboxer.linux.cgroup.host import Host, Version, detect
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits, Place, Usage

__all__ = ["Group", "GroupLimits", "Host", "Place", "Usage", "Version", "detect"]
