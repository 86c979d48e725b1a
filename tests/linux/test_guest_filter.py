"""The filter that every guest's process has: made for one process from a template."""

import struct

from wasm_sandboxer.linux import guest_filter

INSTRUCTION = struct.Struct("<HBBI")


def test_a_filter_names_its_process_in_places_of_their_own() -> None:
    made = guest_filter.template()
    assert made  # libseccomp is one of Debian's essential packages
    places = guest_filter.places(made)
    values = {struct.unpack_from("<I", made, place) for place in places}
    assert len(values) == 1
    (value,) = values.pop()
    others = [
        found for offset, (*_, found) in enumerate(INSTRUCTION.iter_unpack(made)) if offset * 8 + 4 not in places
    ]
    assert value > 1 << 22  # no process has such an id: PID_MAX_LIMIT, linux/threads.h
    assert value not in others
