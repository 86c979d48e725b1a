"""`--dir` and `--cwd`: what the guest sees of files, and that it cannot leave it or write where it may not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Cli, Ended, example
from tests.support.guests import Guests
from tests.support.modules import wasi
from wasm_sandboxer.guest import Preopen

FILES = example("files")
# What changes a folder, tried on a folder at /d with a file `a`, an empty folder `sub` and nothing else.
CHANGES = [
    "write /d/a T", "append /d/a T", "write /d/new T", "truncate /d/a", "mkdir /d/m", "rm /d/a", "rm /d/sub",
    "mv /d/a /d/z", "mv /d/sub /d/z", "link /d/a /d/z", "symlink a /d/z", "touch /d/a", "touch /d/new",
    "touch /d/a 5",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `d` with a file and a folder in it, and a secret beside it."""
    made = tmp_path / "d"
    (made / "sub").mkdir(parents=True)
    (made / "a").write_text("content")
    (tmp_path / "secret").write_text("secret")
    return made


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[path.name] = (state.st_mode, state.st_nlink, state.st_mtime_ns, content)
    return found


def files(cli: Cli, command: str, *options: str) -> Ended:
    return cli("run", *options, FILES, *command.split(" "))


# --- what is given


def test_without_dir_there_is_nothing(cli: Cli, folder: Path) -> None:
    ended = files(cli, f"read {folder}/a")
    assert (ended.code, ended.stdout) == (1, b"")
    assert ended.stderr.endswith(": No such file or directory\n")


def test_a_folder_is_seen_at_its_own_path_by_default(cli: Cli, folder: Path) -> None:
    assert files(cli, f"ls {folder}", "--dir", str(folder)).lines == ["a", "sub/"]


def test_a_relative_folder_is_seen_at_its_relative_path(cli: Cli, folder: Path) -> None:
    assert files(cli, "read d/a", "--dir", "d").text == "content"
    assert files(cli, "ls d", "--dir", "d:").lines == ["a", "sub/"]


@pytest.mark.parametrize("place", ["/", "/data", "data", "/deep/er"])
def test_a_folder_is_seen_where_it_is_put(cli: Cli, folder: Path, place: str) -> None:
    assert files(cli, f"ls {place}", "--dir", f"d:{place}").lines == ["a", "sub/"]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_folder_whose_path_is_no_text_is_seen_where_it_is_put(
    cli: Cli, folder: Path, tmp_path: Path, isolation: str
) -> None:
    folder.rename(tmp_path / os.fsdecode(b"d\xff"))
    given = ("--isolation", isolation, "--dir", b"d\xff:/u")
    assert cli("run", *given, FILES, "ls", "/u").lines == ["a", "sub/"]
    assert cli("run", *given, FILES, "write", "/u/new", "T").code == 0


def test_a_folder_is_writable_by_default_and_with_rw(cli: Cli, folder: Path) -> None:
    assert files(cli, "write /d/new T", "--dir", "d:/d").code == 0
    assert files(cli, "append /d/new U", "--dir", "d:/d:rw").code == 0
    assert (folder / "new").read_text() == "TU"


def test_several_folders_are_given(cli: Cli, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    options = ("--dir", "d:/from:ro", "--dir", "other:/to")
    assert cli("run", *options, example("cat"), "/from/a").text == "content"
    assert files(cli, "write /to/b T", *options).code == 0
    assert files(cli, "write /from/b T", *options).code == 1


# --- read-only


def test_ro_makes_a_folder_read_only(cli: Cli, folder: Path) -> None:
    ended = files(cli, "write /d/a T", "--dir", "d:/d:ro")
    assert (ended.code, ended.stderr) == (1, "files: write: /d/a: Operation not permitted\n")
    assert files(cli, "read /d/a", "--dir", "d:/d:ro").text == "content"


@pytest.mark.parametrize("command", CHANGES)
def test_a_read_only_folder_refuses_every_change(guests: Guests, folder: Path, command: str) -> None:
    before = snapshot(folder)
    ran = guests.run("files", *command.split(), preopens=(Preopen(host=folder, guest="/d", writable=False),))
    assert (ran.code, ran.stderr.rpartition(": ")[2]) == (1, "Operation not permitted\n"), ran
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    "call",
    [
        # Opened for reading only, and yet to be changed: by open's own flags, then through the descriptor.
        "(call $open (i32.const 8) (i64.const 2))",
        "(call $open (i32.const 0) (i64.const 64))",
        "(call $fd_filestat_set_size (call $opened) (i64.const 0))",
        "(call $fd_allocate (call $opened) (i64.const 0) (i64.const 9999))",
        "(call $fd_filestat_set_times (call $opened) (i64.const 5) (i64.const 5) (i32.const 5))",
        "(call $fd_filestat_set_times (i32.const 3) (i64.const 5) (i64.const 5) (i32.const 5))",
        "(call $fd_write (call $opened) (i32.const 64) (i32.const 1) (i32.const 512))",
        "(call $set_times (i32.const 5))",
        "(call $path_unlink_file (i32.const 3) (i32.const 0) (i32.const 1))",
    ],
)
def test_a_read_only_folder_refuses_wasi_calls_that_no_libc_makes(
    guests: Guests, folder: Path, wat: Callable[..., Path], call: str
) -> None:
    before = snapshot(folder)
    path = wat(f"""(module
      {wasi("path_open fd_filestat_set_size fd_allocate fd_filestat_set_times fd_write")}
      {wasi("path_filestat_set_times path_unlink_file proc_exit")}
      (memory (export "memory") 1)
      (data (i32.const 0) "a")
      (data (i32.const 64) "\\00\\00\\00\\00\\01\\00\\00\\00")
      (func $open (param $flags i32) (param $rights i64) (result i32)
        (call $path_open (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 1) (local.get $flags)
          (local.get $rights) (local.get $rights) (i32.const 0) (i32.const 512)))
      (func $set_times (param $what i32) (result i32)
        (call $path_filestat_set_times (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 1)
          (i64.const 5) (i64.const 5) (local.get $what)))
      (func $opened (result i32)
        (if (call $open (i32.const 0) (i64.const 2)) (then (unreachable)))
        (i32.load (i32.const 512)))
      (func (export "_start") (call $proc_exit {call})))""")
    ran = guests.run(path, preopens=(Preopen(host=folder, guest="/d", writable=False),))
    assert ran.code not in (0, 134), ran
    assert snapshot(folder) == before


# --- staying inside


@pytest.mark.parametrize(
    "path",
    ["/d/../secret", "/d/sub/../../secret", "/d/../../etc/passwd", "/d/out", "/d/absolute", "/d/chain",
     "/d/up/secret", "/d/self/../../secret"],
)  # fmt: skip
def test_no_path_leads_out_of_a_folder(guests: Guests, folder: Path, path: str) -> None:
    (folder / "out").symlink_to("../secret")
    (folder / "absolute").symlink_to(folder.parent / "secret")
    (folder / "chain").symlink_to("out")
    (folder / "up").symlink_to("..")
    (folder / "self").symlink_to("sub")
    for command in (["read"], ["write", "T"], ["append", "T"], ["truncate"], ["ls"], ["mkdir"], ["touch"]):
        ran = guests.run("files", command[0], path, *command[1:], preopens=(Preopen(host=folder, guest="/d"),))
        assert (ran.code, ran.stdout) == (1, b""), ran
    assert (folder.parent / "secret").read_text() == "secret"


def test_an_absolute_path_of_the_host_is_nothing_to_the_guest(cli: Cli, folder: Path) -> None:
    ended = files(cli, f"read {folder.parent}/secret", "--dir", "d:/d")
    assert (ended.code, ended.stdout) == (1, b"")


def test_a_symlink_that_stays_inside_is_followed(cli: Cli, folder: Path) -> None:
    (folder / "sub" / "link").symlink_to("../a")
    assert files(cli, "read /d/sub/link", "--dir", "d:/d").text == "content"


def test_a_guest_cannot_make_itself_a_way_out(cli: Cli, folder: Path) -> None:
    assert files(cli, "symlink ../secret /d/out", "--dir", "d:/d").code in (0, 1)
    assert files(cli, f"symlink {folder.parent}/secret /d/absolute", "--dir", "d:/d").code == 1
    assert files(cli, "link /d/../secret /d/hard", "--dir", "d:/d").code == 1
    assert files(cli, "mv /d/../secret /d/mine", "--dir", "d:/d").code == 1
    assert files(cli, "read /d/out", "--dir", "d:/d").stdout == b""
    assert (folder.parent / "secret").read_text() == "secret"


# --- single files


@pytest.fixture
def mounts(cli: Cli, folder: Path) -> None:
    """Skips where the host lets nobody mount, as containers and hardened kernels do."""
    ended = files(cli, "ls /f", "--dir", "d/a:/f/a")
    if "giving a single file takes root or user namespaces" in ended.stderr:
        pytest.skip(f"NOT RUN: {ended.stderr}")


@pytest.mark.usefixtures("mounts")
def test_a_single_file_is_alone_in_its_folder(cli: Cli, folder: Path) -> None:
    assert files(cli, "ls /f", "--dir", "d/a:/f/b").lines == ["b"]
    assert files(cli, "read /f/b", "--dir", "d/a:/f/b").text == "content"


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(("given", "seen"), [("d/a", "d/a"), ("d/a:/a", "/a"), ("d/a:x", "x"), ("d/a::ro", "d/a")])
def test_a_single_file_is_seen_where_it_is_put(cli: Cli, folder: Path, given: str, seen: str) -> None:
    assert files(cli, f"read {seen}", "--dir", given).text == "content"


@pytest.mark.usefixtures("mounts")
def test_a_single_file_is_writable_but_not_its_folder(cli: Cli, folder: Path) -> None:
    given = ("--dir", "d/a:/f/a")
    assert files(cli, "write /f/a T", *given).code == 0
    assert files(cli, "append /f/a U", *given).code == 0
    assert (folder / "a").read_text() == "TU"
    for change in ("write /f/new T", "mkdir /f/m", "rm /f/a", "mv /f/a /f/z", "symlink a /f/z", "link /f/a /f/z"):
        assert files(cli, change, *given).code == 1, change
    assert sorted(path.name for path in folder.iterdir()) == ["a", "sub"]


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("command", [change for change in CHANGES if "sub" not in change])
def test_a_read_only_file_refuses_every_change(cli: Cli, folder: Path, command: str) -> None:
    before = snapshot(folder)
    assert files(cli, command, "--dir", "d/a:/d/a:ro").code == 1
    assert snapshot(folder) == before


@pytest.mark.usefixtures("mounts")
def test_files_of_one_folder_keep_their_own_modes(cli: Cli, folder: Path) -> None:
    (folder / "b").write_text("b")
    given = ("--dir", "d/a:/f/a:ro", "--dir", "d/b:/f/b")
    assert files(cli, "ls /f", *given).lines == ["a", "b"]
    assert files(cli, "write /f/a T", *given).code == 1
    assert files(cli, "write /f/b T", *given).code == 0
    assert ((folder / "a").read_text(), (folder / "b").read_text()) == ("content", "T")


@pytest.mark.usefixtures("mounts")
def test_nothing_is_left_of_a_single_files_mount(cli: Cli, folder: Path) -> None:
    assert files(cli, "read /f/a", "--dir", "d/a:/f/a").code == 0
    assert str(cli.root) not in Path("/proc/self/mountinfo").read_text()
    assert list((cli.root / "files").iterdir()) == []


@pytest.mark.usefixtures("mounts", "superuser")
def test_a_single_file_is_given_beside_a_store_that_is_read_only(fresh: Cli, folder: Path) -> None:
    assert fresh("run", FILES).code == 2  # its usage; the store has all that a run takes
    script = f'mount --bind {fresh.root} {fresh.root}; mount -o remount,ro,bind {fresh.root}; exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", script, "sh")
    ended = fresh("run", "--dir", "d/a:/f/a", FILES, "read", "/f/a", wrapper=wrapper)
    assert (ended.code, ended.text) == (0, "content"), ended
    assert not (fresh.root / "files").exists()


# --- the working directory


def test_cwd_is_where_relative_paths_begin(cli: Cli, folder: Path) -> None:
    (folder / "sub" / "b").write_text("below")
    assert files(cli, "read b", "--dir", "d:/d", "--cwd", "/d/sub").text == "below"
    assert files(cli, "read a", "--dir", "d:/d", "--cwd", "/d").text == "content"


def test_cwd_is_told_in_pwd(cli: Cli, folder: Path) -> None:
    ended = cli("run", "--dir", "d:/d", "--cwd", "/d/sub", example("args"))
    assert ended.lines == ["argv[0]=args.wasm", "PWD=/d/sub"]


def test_cwd_keeps_the_folders_mode(cli: Cli, folder: Path) -> None:
    assert files(cli, "write a T", "--dir", "d:/d:ro", "--cwd", "/d").code == 1


@pytest.mark.parametrize(
    ("cwd", "said"),
    [
        ("/d/" + "x" * 300, f"--cwd /d/{'x' * 300}: File name too long"),
        ("/d/none", "--cwd /d/none: no such folder in what --dir gives at /d"),
        ("/d/a", "--cwd /d/a: no such folder in what --dir gives at /d"),
        ("/other", "--cwd /other: no --dir gives it"),
        ("/dd", "--cwd /dd: no --dir gives it"),
        ("/d/..", "--cwd /d/..: leads outside of what --dir gives at /d"),
        ("/d/up", "--cwd /d/up: leads outside of what --dir gives at /d"),
    ],
)
def test_a_cwd_that_is_not_given_is_refused(cli: Cli, folder: Path, cwd: str, said: str) -> None:
    (folder / "up").symlink_to("..")
    assert cli.refused("run", "--dir", "d:/d", "--cwd", cwd, FILES, "ls", ".") == said


# --- what is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "--dir : write HOST, HOST:GUEST or HOST:GUEST:ro"),
        (":", "--dir :: write HOST, HOST:GUEST or HOST:GUEST:ro"),
        (":/d", "--dir :/d: write HOST, HOST:GUEST or HOST:GUEST:ro"),
        ("d:/d:r", "--dir d:/d:r: write HOST, HOST:GUEST or HOST:GUEST:ro"),
        ("d:/d:ro:", "--dir d:/d:ro:: write HOST, HOST:GUEST or HOST:GUEST:ro"),
        ("none", "--dir none: none: No such file or directory"),
        ("none:/d", "--dir none:/d: none: No such file or directory"),
        ("d/a/b:/d", "--dir d/a/b:/d: d/a/b: Not a directory"),
        ("x" * 300, f"--dir {'x' * 300}: {'x' * 300}: File name too long"),
        ("/dev/null:/d", "--dir /dev/null:/d: /dev/null is neither a folder nor a file"),
        ("d/a:/", "--dir d/a:/: this cannot be the name of a file"),
        ("d/a:..", "--dir d/a:..: this cannot be the name of a file"),
        (b"\xff", r"--dir \udcff: \udcff: No such file or directory"),
        (b"d:/\xff", r"--dir d:/\udcff: WASI knows only paths in UTF-8; give another as HOST:GUEST"),
    ],
)  # fmt: skip
def test_a_bad_folder_is_refused(cli: Cli, folder: Path, given: str | bytes, said: str) -> None:
    assert cli.refused("run", "--dir", given, FILES, "ls", "/d") == said


@pytest.mark.usefixtures("ordinary_user")
def test_a_folder_that_may_not_be_read_is_refused(cli: Cli, folder: Path) -> None:
    folder.chmod(0)
    try:
        assert cli.refused("run", "--dir", "d:/d", FILES, "ls", "/d") == "--dir d:/d: d: you may not read it"
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("places", [("/d", "/d"), ("/d", "/d/"), ("d", "d")])
def test_two_in_one_place_are_refused(cli: Cli, folder: Path, places: tuple[str, str]) -> None:
    one, two = (f"d:{place}" for place in places)
    said = cli.refused("run", "--dir", one, "--dir", two, FILES, "ls", "/d")
    assert said == f"--dir: two are given the same place, {places[0]}"


def test_a_file_inside_a_given_folder_is_refused(cli: Cli, folder: Path) -> None:
    said = cli.refused("run", "--dir", "d:/d", "--dir", "secret:/d/secret", FILES, "ls", "/d")
    assert said == "--dir secret:/d/secret: /d is a folder of its own; give the file another place"
