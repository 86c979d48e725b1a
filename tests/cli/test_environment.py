"""`--env`, `--env-file`: what the guest sees of variables."""

from pathlib import Path

import pytest

from tests.support.cli import Cli, example

ARGS = example("args")


def variables(cli: Cli, *options: str, **more: object) -> list[str]:
    ended = cli("run", *options, ARGS, **more)
    assert (ended.code, ended.stderr) == (0, ""), ended
    return ended.text.split("\n")[1:-1]


def test_a_variable_is_set(cli: Cli) -> None:
    assert variables(cli, "--env", "A=1", "-e", "B=two words=2") == ["A=1", "B=two words=2"]


def test_the_last_setting_wins(cli: Cli) -> None:
    assert variables(cli, "-e", "A=1", "-e", "A=2") == ["A=2"]


def test_an_empty_value_is_a_value(cli: Cli) -> None:
    assert variables(cli, "-e", "A=") == ["A="]


def test_a_bare_name_takes_the_callers(cli: Cli) -> None:
    assert variables(cli, "-e", "MINE", "-e", "NOBODYS", env={"MINE": "x=y"}) == ["MINE=x=y"]


def test_a_file_of_settings_is_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\n\nA=1\n  B=x y  \r\nMINE\n#C=3\n  # more\nD=1\x0b2\u20283\n")
    found = variables(cli, "--env-file", "env", "-e", "A=2", env={"MINE": "m"})
    assert found == ["A=2", "B=x y  ", "D=1\x0b2\u20283", "MINE=m"]


@pytest.mark.parametrize("setting", ["", "=1", "="])
def test_a_setting_without_a_name_is_refused(cli: Cli, setting: str) -> None:
    said = cli.refused("run", "--env", setting, ARGS)
    assert said == f"--env {setting}: write K=V, or K to take yours"


def test_a_bad_line_of_a_file_is_refused_with_its_number(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1\n# no\n=2\n")
    said = cli.refused("run", "--env-file", "env", ARGS)
    assert said == "--env-file env:3: write K=V, or K to take yours"


def test_a_file_of_settings_may_begin_with_a_byte_order_mark(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1\n", encoding="utf-8-sig")
    assert variables(cli, "--env-file", "env") == ["A=1"]


@pytest.mark.parametrize(
    ("line", "name", "more"),
    [
        ("A B=1", "A B", ""),
        ("A =1", "A ", ""),
        ("A ", "A ", ""),
        ("export A=1", "export A", "; this is no shell's file, so leave the `export` out"),
    ],
)
def test_a_name_with_a_blank_in_it_is_refused(cli: Cli, tmp_path: Path, line: str, name: str, more: str) -> None:
    (tmp_path / "env").write_text(f"# one\n{line}\n")
    said = cli.refused("run", "--env-file", "env", ARGS)
    assert said == f"--env-file env:2: the name '{name}' has a blank in it{more}; write K=V, or K to take yours"


def test_a_file_that_is_not_there_is_refused(cli: Cli) -> None:
    assert cli.refused("run", "--env-file", "nope", ARGS) == "--env-file nope: No such file or directory"


def test_a_file_that_is_no_text_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"A=\xff\n")
    assert cli.refused("run", "--env-file", "env", ARGS) == "--env-file env: not text in UTF-8"


def test_a_folder_is_no_file_of_settings(cli: Cli, tmp_path: Path) -> None:
    assert cli.refused("run", "--env-file", tmp_path, ARGS) == f"--env-file {tmp_path}: Is a directory"


def test_values_that_are_not_utf8_are_refused(cli: Cli) -> None:
    said = cli.refused("run", "-e", b"A=\xff", ARGS)
    assert said == r"environment variable 0 is not valid UTF-8, which WASI asks for: '\udcff'"
