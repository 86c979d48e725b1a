"""What the documentation says that the code knows better."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_configuration_document_lists_every_key_as_it_is() -> None:
    check = subprocess.run([sys.executable, ROOT / "tools" / "write_configuration_doc.py", "--check"], check=False)
    assert check.returncode == 0, "run tools/write_configuration_doc.py"


def test_the_readme_shows_what_containerd_config_prints() -> None:
    from wasm_sandboxer.cli.containerd_config import _TEMPLATE

    readme = (ROOT / "README.md").read_text()
    for line in _TEMPLATE.splitlines():
        if "sandboxer = " in line or "runtime_type" in line:
            assert line.strip() in readme
