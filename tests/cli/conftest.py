"""What only the tests of the command line share."""

from pathlib import Path

import pytest

from tests.support.modules import heavy_module


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small module that takes far longer to compile than any test waits."""
    path = tmp_path_factory.mktemp("modules") / "heavy.wasm"
    path.write_bytes(heavy_module())
    return path
