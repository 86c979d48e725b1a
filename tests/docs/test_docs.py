"""What the documentation says that the code knows better."""

import re
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


def test_what_the_documents_and_docstrings_point_to_is_there() -> None:
    missing = []
    for path in _own_files():
        if path.suffix == ".md":
            links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
            missing += [f"{path}: {link}" for link in links if not (path.parent / link).exists()]
        else:
            named = re.findall(r"\bdocs/[\w-]+\.md\b", path.read_text())
            missing += [f"{path}: {document}" for document in named if not (ROOT / document).exists()]
    assert not missing


def _own_files() -> list[Path]:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = [path for folder in folders for kind in ("*.md", "*.py") for path in folder.rglob(kind)]
    return [*ROOT.glob("*.md"), *found]
