"""Records on disk: whole or not there, whatever fails."""

from pathlib import Path

import pytest

from wasm_sandboxer.core.records import Records
from wasm_sandboxer.errors import WasmSandboxerError


def test_what_was_put_is_found_until_it_is_removed(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put("kind", "space", "one", {"a": 1})
    records.put("kind", "space", "one", {"a": 2})
    assert list(records.all("kind")) == [("space", "one", {"a": 2})]
    records.remove("kind", "space", "one")
    records.remove("kind", "space", "one")
    assert list(records.all("kind")) == []


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "kind/space/one.json").mkdir(parents=True)
    words = f"^cannot write the record {tmp_path}/kind/space/one.json: Is a directory$"
    with pytest.raises(WasmSandboxerError, match=words):
        Records(tmp_path).put("kind", "space", "one", {})
    assert [path.name for path in (tmp_path / "kind/space").iterdir()] == ["one.json"]
