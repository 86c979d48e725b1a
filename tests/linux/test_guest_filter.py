"""The filter that every guest's process has: made for one process from a template."""

import struct

from wasm_sandboxer.linux import guest_filter

INSTRUCTION = struct.Struct("<HBBI")


def test_a_filter_is_its_template_with_the_id_of_its_process() -> None:
    made = guest_filter.template()
    assert made  # libseccomp is one of Debian's essential packages
    changed = []
    for before, after in zip(
        INSTRUCTION.iter_unpack(made), INSTRUCTION.iter_unpack(guest_filter.of_process(made, 4711)), strict=True
    ):
        if before != after:
            changed.append((before[:3] == after[:3], after[3]))
    assert changed
    assert set(changed) == {(True, 4711)}
