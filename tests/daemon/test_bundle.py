"""From a bundle to a guest: modules, volumes, the root file system; and bundles that mean harm. No containerd."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.bundles import bind
from tests.support.daemon import mounts
from tests.support.modules import EMPTY, binary
from wasm_sandboxer.api.types_pb2 import Mount
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

SECRET = "what no guest may see"


@pytest.fixture
def run(ttrpc, daemon, ident):
    """Runs a bundle's container to its end: exit code, stdout, stderr. Nothing stays mounted."""

    def to_the_end(made, **fields):
        for name in ("stdout", "stderr"):
            (made.folder / name).unlink(missing_ok=True)
        ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams(), **fields)
        ttrpc.Start(id=ident)
        out, err = made.read("stdout"), made.read("stderr")
        code = ttrpc.Wait(id=ident).exit_status
        ttrpc.Delete(id=ident)
        assert daemon.mounts(made.folder) == []
        made.close()
        return code, out.decode(), err.decode()

    return to_the_end


@pytest.fixture
def creating_fails(ttrpc, daemon, ident, refused):
    """Creates what must be refused: nothing is left. The message."""

    def held(made):
        return [
            each for each in daemon.descriptors() if str(made.folder) in each or each.startswith(("pipe:", "/dev/p"))
        ]

    def fails(made, code=StatusCode.INVALID_ARGUMENT, **fields):
        before, records = held(made), daemon.records()
        message = refused(code, ttrpc.Create, id=ident, bundle=str(made.folder), **fields)
        refused(StatusCode.NOT_FOUND, ttrpc.State, id=ident)
        assert daemon.mounts(made.folder) == []
        assert (held(made), daemon.records()) == (before, records)
        return message

    return fails


@pytest.fixture
def files(bundle):
    """Makes a bundle that runs the example `files`."""

    def make(*arguments, **settings):
        return bundle("files", *arguments, **settings)

    return make


@pytest.fixture
def outside(tmp_path):
    """A folder of the host that no guest was given."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    (folder / "module.wasm").write_bytes(binary(EMPTY))
    return folder


def listing(folder):
    """All that is in a folder, with contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


# ---- which module ----


@pytest.mark.parametrize(
    ("place", "command", "settings"),
    [
        ("a.wasm", "/a.wasm", {}),
        ("bin/deep/a.wasm", "/bin/deep/a.wasm", {}),
        ("bin/a.wasm", "bin/a.wasm", {}),
        ("bin/a.wasm", "./a.wasm", {"cwd": "/bin"}),
        ("bin/a.wasm", "../bin/a.wasm", {"cwd": "/etc"}),
        ("bin/a.wasm", "/usr/../bin/./a.wasm", {}),
        ("usr/bin/a", "a", {}),
        ("opt/a", "a", {"env": {"PATH": "/nowhere:/opt"}}),
        ("work/a.wasm", "a.wasm", {"cwd": "/work"}),
        ("with space/ünï.wasm", "/with space/ünï.wasm", {}),
    ],
)
def test_a_module_is_found_as_a_shell_would_find_it(run, bundle, place, command, settings):
    made = bundle()
    for folder in ("etc", "usr", str(Path(place).parent)):
        (made.root / folder).mkdir(parents=True, exist_ok=True)
    (made.root / "hello.wasm").rename(made.root / place)
    made.configure(command, **settings)
    assert run(made)[:2] == (0, "Hello from WebAssembly!\n")


def test_path_is_searched_in_its_order(run, bundle):
    made = bundle("hello")
    for folder, module in (("one", "exit"), ("two", "hello")):
        (made.root / folder).mkdir()
        made.add(module)
        (made.root / f"{module}.wasm").rename(made.root / folder / "program")
    made.configure("program", "5", env={"PATH": "/one:/two"})
    assert run(made)[0] == 5
    made.configure("program", "5", env={"PATH": "/two:/one"})
    assert run(made)[0] == 0


def test_a_name_with_a_slash_is_not_looked_for_on_path(run, bundle):
    made = bundle("hello")
    (made.root / "bin").mkdir()
    made.add("exit")
    (made.root / "exit.wasm").rename(made.root / "bin" / "hello.wasm")
    made.configure("./hello.wasm", "5", env={"PATH": "/bin"})
    assert run(made)[0] == 0


def test_a_function_is_named_behind_the_path(run, bundle):
    made = bundle("reactor")
    made.configure("/reactor.wasm#add", "2", "3")
    assert run(made)[:2] == (0, "5\n")
    made.configure("reactor.wasm#add", "40", "2")
    assert run(made)[:2] == (0, "42\n")


def test_arguments_and_environment_arrive_as_given(run, bundle):
    made = bundle(
        "args", "", "two words", "ünï", env={"EMPTY": "", "A": "b=c", "LONG": "x" * 5000}, cwd="/some/where"
    )
    _, out, _ = run(made)
    assert out.splitlines()[:4] == ["argv[0]=/args.wasm", "argv[1]=", "argv[2]=two words", "argv[3]=ünï"]
    assert {"EMPTY=", "A=b=c", f"LONG={'x' * 5000}", "PWD=/some/where"} <= set(out.splitlines())


def test_of_a_variable_given_twice_the_last_counts(run, bundle):
    made = bundle("args")
    made.configure("/args.wasm")
    config = json.loads((made.folder / "config.json").read_text())
    config["process"]["env"] = ["WORD=first", "WORD=last"]
    (made.folder / "config.json").write_text(json.dumps(config))
    assert "WORD=last" in run(made)[1].splitlines()


NO_START = '(module (memory (export "memory") 1) (func (export "other")))'
MISSING = '(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))'
PARAMETER = '(module (memory (export "memory") 1) (func (export "_start") (param i32)))'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such module in the image: /bad"),
        (b"", "the file is empty"),
        (b"\x7fELF\2\1\1\0", "not WebAssembly but an ELF program"),
        (b"#!/bin/sh\necho\n", "not WebAssembly but a script"),
        (b"\0asm\1\0\0", "cut short"),
        (b"\0asm\7\0\0\0", "unknown version"),
        (b"\0asm\1\0\0\0\x0a\x05", "/bad"),
        (binary(NO_START), "no _start to run; name one as MODULE#FUNCTION: other"),
        (binary(MISSING), "magic"),
        (binary(PARAMETER), "takes parameters"),
    ],
)
def test_a_module_that_cannot_run_is_refused_with_the_reason(creating_fails, bundle, content, words):
    made = bundle()
    if content is not None:
        (made.root / "bad").write_bytes(content)
    made.configure("/bad")
    assert words in creating_fails(made)


@pytest.mark.parametrize(
    "command", ["#add", "/", "/folder", "nowhere", "", "/reactor.wasm#nowhere", "/reactor.wasm#add"]
)
def test_a_command_that_is_no_module_is_refused(creating_fails, bundle, command):
    made = bundle("reactor")
    (made.root / "folder").mkdir()
    made.configure(command)
    assert creating_fails(made)


def test_what_is_no_file_is_refused_at_once(creating_fails, bundle):
    made = bundle()
    os.mkfifo(made.root / "fifo")
    os.mknod(made.root / "device", 0o666 | 0o020000, os.makedev(1, 5))
    for name in ("fifo", "device"):
        made.configure(f"/{name}")
        assert f"/{name}" in creating_fails(made)


@pytest.mark.parametrize(
    ("target", "code"), [("../../../bin/a.wasm", 0), ("/bin/a.wasm", 0), ("bin/../bin/a.wasm", 0), ("/link2", 0)]
)
def test_links_lead_to_modules_inside_the_image(run, bundle, target, code):
    made = bundle()
    (made.root / "bin").mkdir()
    (made.root / "hello.wasm").rename(made.root / "bin" / "a.wasm")
    (made.root / "link").symlink_to(target)
    (made.root / "link2").symlink_to("/bin/a.wasm")
    made.configure("/link")
    assert run(made)[:2] == (code, "Hello from WebAssembly!\n")


def test_no_link_leads_to_a_module_outside_the_image(creating_fails, bundle, outside):
    made = bundle()
    (made.root / "link").symlink_to(outside / "module.wasm")
    (made.root / "folder").symlink_to(outside)
    (made.root / "loop").symlink_to("/loop")
    for command in (
        "/link", "/folder/module.wasm", f"{outside}/module.wasm", "/loop", "../../outside/module.wasm",
        f"/..{outside}/module.wasm", "/proc/self/root" + str(outside) + "/module.wasm",
    ):  # fmt: skip
        made.configure(command)
        assert command in creating_fails(made) or "/outside/module.wasm" in creating_fails(made)


# ---- the specification ----


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"process": None}, "process.args is empty"),
        ({"process": []}, "config.json.process must be an object"),
        ({"process": {"args": "/hello.wasm"}}, "process.args must be a list"),
        ({"process": {"args": ["/hello.wasm", 7]}}, "process.args[1] must be a string"),
        ({"process": {"args": ["/hello.wasm"], "env": ["X"]}}, "not NAME=VALUE"),
        ({"process": {"args": ["/hello.wasm"], "env": ["X\n=1", 3]}}, "env[1] must be a string"),
        ({"mounts": [{"destination": "relative", "type": "bind"}]}, "mounts[0].destination must be absolute"),
        ({"mounts": ["x"]}, "mounts[0] must be an object"),
        ({"root": {"path": 3}}, "root.path must be a string"),
        ({"root": {"readonly": "yes"}}, "root.readonly must be true or false"),
        ({"annotations": {"a": 1}}, "annotations.a must be a string"),
        ({"linux": {"resources": {"memory": {"limit": "1G"}}}}, "memory.limit must be a whole number"),
        *(
            ({"linux": {"resources": {"memory": {"limit": limit}}}}, f"memory.limit must be {words}")
            for limit, words in (
                (1 << 80, "from -1 to 9223372036854775807, not 1208925819614629174706176"),
                (1 << 63, "from -1 to 9223372036854775807, not"),
                (-2, "from -1 to 9223372036854775807, not -2"),
                (1e6, "a whole number, not 1000000.0"),
                (True, "a whole number, not True"),
            )
        ),
        ({"linux": {"resources": {"cpu": {"shares": -1}}}}, "cpu.shares must be from 0 to 18446744073709551615"),
        ({"linux": {"resources": {"pids": {"limit": 1 << 63}}}}, "pids.limit must be from -9223372036854775808 to"),
        (
            {"process": {"args": ["/hello.wasm", "\ud800"]}},
            r"json.process.args[1] is no text: '\ud800' has half a pair",
        ),
        (
            {"annotations": {"a\udc00": "x"}},
            r"a name in config.json.annotations is no text: 'a\udc00' has half a pair",
        ),
        ({"linux": {"cgroupsPath": "/a\0b"}}, r"linux.cgroupsPath has a NUL byte in it: '/a\x00b'"),
        ({"mounts": [{"destination": "/x\0", "type": "bind"}]}, "mounts[0].destination has a NUL byte in it"),
        ({"hooks": [[{"x": "\udfff"}]]}, "config.json.hooks[0][0].x is no text"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused_with_its_place(creating_fails, bundle, change, words):
    made = bundle()
    config = json.loads((made.folder / "config.json").read_text())
    (made.folder / "config.json").write_text(json.dumps({**config, **change}))
    assert words in creating_fails(made)


def test_what_is_no_specification_is_refused(creating_fails, bundle):
    made = bundle()
    config = made.folder / "config.json"
    for content in (b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"x": "\xed\xa0\x80"}'):
        config.write_bytes(content)
        assert "config.json" in creating_fails(made)
    config.unlink()
    assert "config.json: No such file" in creating_fails(made, StatusCode.NOT_FOUND)


def test_a_character_may_be_written_as_its_two_halves(run, bundle):
    made = bundle("args")
    made.configure("/args.wasm", "\U0001f600", annotations={"\U0001f600": "\U0001f600"})
    assert b"\\ud83d\\ude00" in (made.folder / "config.json").read_bytes()
    assert "\U0001f600" in run(made)[1]


@pytest.mark.parametrize("limit", [-1, 0, (1 << 63) - 1])
def test_a_limit_on_memory_may_be_none_or_more_than_there_is(run, bundle, limit):
    made = bundle()
    made.configure("/hello.wasm", linux={"resources": {"memory": {"limit": limit}}})
    assert run(made)[0] == 0


def test_a_root_may_be_any_folder_and_is_not_changed_by_being_one(run, files, tmp_path):
    """As `ctr run --rootfs` has it; the container's read-only root is nobody else's."""
    made = files("write", "/new", "x")
    made.root.rename(tmp_path / "elsewhere")
    made.configure("/files.wasm", "write", "/new", "x", root={"path": str(tmp_path / "elsewhere"), "readonly": True})
    assert run(made)[0] == 1
    (tmp_path / "elsewhere" / "host").write_text("writable")
    made.configure("/files.wasm", "write", "/new", "x", root={"path": str(tmp_path / "elsewhere")})
    assert run(made)[0] == 0
    assert (tmp_path / "elsewhere" / "new").read_text() == "x"


def test_a_bundle_is_named_by_an_absolute_path(ttrpc, ident, refused):
    for folder in ("", "relative/path"):
        refused(StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=folder)
    assert "No such file" in refused(StatusCode.NOT_FOUND, ttrpc.Create, id=ident, bundle="/no/where")


def test_what_is_not_honoured_is_named_in_the_log(run, daemon, bundle):
    made = bundle()
    made.configure("/hello.wasm", hostname="h", linux={"seccomp": {"x": 1}, "maskedPaths": ["/proc/kcore"]})
    run(made)
    asked = next(line for line in daemon.log.splitlines() if "asks for what its guest has no use for: " in line)
    assert asked.endswith("linux.seccomp, linux.maskedPaths, hostname")


# ---- volumes ----


def test_a_folder_is_a_volume(run, files, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "given").write_text("from outside")
    given = {"mounts": [bind(volume, "/data")]}
    assert run(files("read", "/data/given", **given))[:2] == (0, "from outside")
    assert run(files("write", "/data/new", "from inside", name="b2", **given))[0] == 0
    assert (volume / "new").read_text() == "from inside"
    assert "data/" in run(files("ls", "/", name="b3", **given))[1].splitlines()


@pytest.mark.parametrize("option", ["ro", "rro"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("write", "/data/new", "x"), ("write", "/data/given", "x"), ("append", "/data/given", "x"),
        ("rm", "/data/given"), ("mkdir", "/data/folder"), ("mv", "/data/given", "/data/other"),
        ("truncate", "/data/given"), ("touch", "/data/given", "1"), ("link", "/data/given", "/data/other"),
        ("symlink", "given", "/data/other"), ("write", "/data/sub/new", "x"),
    ],
)  # fmt: skip
def test_a_read_only_folder_cannot_be_changed(run, files, tmp_path, option, arguments):
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    (volume / "given").write_text("as it was")
    before = listing(volume)
    stamp = (volume / "given").stat().st_mtime_ns
    code, _, err = run(files(*arguments, mounts=[bind(volume, "/data", option)]))
    assert code == 1, err
    assert listing(volume) == before
    assert (volume / "given").stat().st_mtime_ns == stamp
    made = files("read", "/data/given", name="again", mounts=[bind(volume, "/data", option)])
    assert run(made)[:2] == (0, "as it was")


@pytest.mark.parametrize("option", ["ro", "rro"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_what_is_mounted_in_a_read_only_folder_cannot_be_changed_either(run, files, tmp_path, option, isolation):
    for name in ("volume/tmpfs", "volume/folder", "other"):
        (tmp_path / name).mkdir(parents=True)
    inside = tmp_path / "volume"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inside / "tmpfs"], check=True)
    subprocess.run(["mount", "--bind", tmp_path / "other", inside / "folder"], check=True)
    try:
        for number, name in enumerate(("tmpfs", "folder")):
            (inside / name / "given").write_text("as it was")
            given = {
                "mounts": [bind(inside, "/data", option)],
                "annotations": {"wasm-sandboxer.io/isolation": isolation},
            }
            read = files("read", f"/data/{name}/given", name=f"r{number}", **given)
            assert run(read)[:2] == (0, "as it was")
            assert run(files("write", f"/data/{name}/given", "x", name=f"w{number}", **given))[0] == 1
            assert (inside / name / "given").read_text() == "as it was"
    finally:
        for name in ("tmpfs", "folder"):
            subprocess.run(["umount", inside / name], check=True)


def test_a_file_is_a_volume(run, files, tmp_path):
    (tmp_path / "file").write_text("from outside")
    given = {"mounts": [bind(tmp_path / "file", "/etc/app/config")]}
    assert run(files("read", "/etc/app/config", **given))[:2] == (0, "from outside")
    assert run(files("append", "/etc/app/config", ", and inside", name="b2", **given))[0] == 0
    assert (tmp_path / "file").read_text() == "from outside, and inside"


@pytest.mark.parametrize(
    "arguments",
    [("write", "/file", "x"), ("append", "/file", "x"), ("truncate", "/file"), ("rm", "/file"),
     ("touch", "/file", "1"), ("mv", "/file", "/other")],
)  # fmt: skip
def test_a_read_only_file_cannot_be_changed(run, files, tmp_path, arguments):
    (tmp_path / "file").write_text("as it was")
    code, _, _ = run(files(*arguments, mounts=[bind(tmp_path / "file", "/file", "ro")]))
    assert code == 1
    assert (tmp_path / "file").read_text() == "as it was"


def test_volumes_lie_within_volumes(run, files, tmp_path):
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    (tmp_path / "single").write_text("single")
    given = [
        bind(tmp_path / "outer", "/data"),
        bind(tmp_path / "inner", "/data/deep/inner", "ro"),
        bind(tmp_path / "single", "/data/deep/file", "ro"),
    ]
    for number, (path, text) in enumerate(
        [("/data/outer", "outer"), ("/data/deep/inner/inner", "inner"), ("/data/deep/file", "single")]
    ):
        assert run(files("read", path, name=f"b{number}", mounts=given))[:2] == (0, text)
    assert run(files("write", "/data/deep/inner/x", "x", name="b4", mounts=given))[0] == 1
    assert run(files("write", "/data/x", "x", name="b5", mounts=given))[0] == 0
    assert mounts(tmp_path) == []  # nothing came to lie in the volume as the host sees it
    assert list((tmp_path / "inner").iterdir()) == [tmp_path / "inner" / "inner"]


def test_of_two_volumes_at_one_place_the_last_is_seen(run, files, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    given = [bind(tmp_path / "one", "/data"), bind(tmp_path / "two", "/data")]
    assert run(files("read", "/data/name", mounts=given))[1] == "two"


def test_a_volume_of_links_works_as_config_maps_are_made(run, files, tmp_path):
    volume = tmp_path / "volume"
    (volume / "..2026_01_01").mkdir(parents=True)
    (volume / "..2026_01_01" / "key").write_text("value")
    (volume / "..data").symlink_to("..2026_01_01")
    (volume / "key").symlink_to("..data/key")
    assert run(files("read", "/etc/config/key", mounts=[bind(volume, "/etc/config", "ro")]))[1] == "value"
    single = bind(volume / "key", "/etc/key", "ro")  # subPath
    assert run(files("read", "/etc/key", name="b2", mounts=[single]))[1] == "value"


def test_a_module_may_lie_in_a_volume(run, bundle, tmp_path):
    made = bundle()
    (tmp_path / "volume").mkdir()
    (made.root / "etc").mkdir()
    (made.root / "hello.wasm").rename(tmp_path / "volume" / "program.wasm")
    (tmp_path / "volume" / "link").symlink_to("program.wasm")
    for command in ("/plugins/program.wasm", "/plugins/link", "/etc/../plugins/program.wasm"):
        made.configure(command, mounts=[bind(tmp_path / "volume", "/plugins", "ro")])
        assert run(made)[:2] == (0, "Hello from WebAssembly!\n")


def test_a_volume_that_does_not_exist_is_refused(creating_fails, bundle, tmp_path):
    made = bundle()
    made.configure("/hello.wasm", mounts=[bind(tmp_path / "nowhere", "/data")])
    assert f"the volume for /data does not exist: {tmp_path}/nowhere" in creating_fails(made)


def test_a_file_cannot_be_mounted_over_a_folder(creating_fails, bundle, tmp_path):
    made = bundle()
    (made.root / "data").mkdir()
    (tmp_path / "file").write_text("x")
    made.configure("/hello.wasm", mounts=[bind(tmp_path / "file", "/data")])
    assert "/data" in creating_fails(made, StatusCode.UNKNOWN)
    made.configure("/hello.wasm", mounts=[bind(tmp_path / "file", "/hello.wasm/below")])
    assert "/hello.wasm/below" in creating_fails(made, StatusCode.UNKNOWN)


def test_a_tmpfs_is_a_volume(run, files):
    tmpfs = {
        "destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=1777", "size=65536k", "tmpcopyup"],
    }  # fmt: skip
    assert run(files("write", "/scratch/x", "y", mounts=[tmpfs]))[0] == 0
    for option in ("ro", "rro"):
        made = files("write", "/scratch/x", "y", name=option, mounts=[{**tmpfs, "options": [option]}])
        assert run(made)[0] == 1


def test_mounts_do_not_reach_the_hosts_side(run, files, tmp_path, ttrpc, ident):
    """A shared mount of the host's, as systemd makes all, would show a guest's mounts to everybody."""
    shared = tmp_path / "shared"
    shared.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared], check=True)
    subprocess.run(["mount", "--make-shared", shared], check=True)
    try:
        (shared / "volume").mkdir()
        (tmp_path / "file").write_text("x")
        given = [bind(shared / "volume", "/data"), bind(tmp_path / "file", "/data/file")]
        made = files("read", "/data/file", mounts=given)
        ttrpc.Create(id=ident, bundle=str(made.folder))
        assert mounts(shared) == []
        ttrpc.Delete(id=ident)
    finally:
        subprocess.run(["umount", "-l", shared], check=True)


# ---- the root file system ----


def test_a_read_only_root_cannot_be_changed_but_its_volumes_can(run, files, tmp_path):
    (tmp_path / "volume").mkdir()
    (tmp_path / "file").write_text("x")
    given = {
        "readonly": True,
        "mounts": [bind(tmp_path / "volume", "/data"), bind(tmp_path / "file", "/deep/file")],
    }
    for number, arguments in enumerate([("write", "/new", "x"), ("rm", "/files.wasm"), ("mkdir", "/folder")]):
        made = files(*arguments, name=f"b{number}", **given)
        assert run(made)[0] == 1
        assert (made.root / "files.wasm").exists()
    assert run(files("write", "/data/new", "x", name="b4", **given))[0] == 0
    assert run(files("read", "/deep/file", name="b5", **given))[1] == "x"
    assert run(files("append", "/deep/file", "y", name="b6", **given))[0] == 0
    assert (tmp_path / "file").read_text() == "xy"


def overlay(folder, count, *, upper=True):
    """The mount that a snapshotter asks for, of so many layers; each but the last has a file of its own."""
    layers = []
    for number in range(count):
        layer = folder / "snapshots" / f"{number:04}" / "fs"
        layer.mkdir(parents=True)
        (layer / f"file{number}").write_text(f"layer {number}")
        (layer / "same").write_text(str(number))
        layers.append(layer)
    (folder / "upper").mkdir()
    (folder / "work").mkdir()
    options = [f"lowerdir={':'.join(map(str, reversed(layers)))}"]
    if upper:
        options += [f"upperdir={folder}/upper", f"workdir={folder}/work"]
    return Mount(type="overlay", source="overlay", options=["index=off", *options]), layers


@pytest.mark.parametrize("count", [2, 60, 100])
def test_an_image_has_many_layers(run, files, tmp_path, count):
    mount, layers = overlay(tmp_path, count)
    made = files("read", "/same")
    (made.root / "files.wasm").rename(layers[0] / "files.wasm")
    assert run(made, rootfs=[mount])[:2] == (0, str(count - 1))
    made = files("read", "/file0", name="again")
    assert run(made, rootfs=[mount])[:2] == (0, "layer 0")
    assert list((tmp_path / "upper").iterdir()) == []


def test_too_many_layers_are_refused_with_the_reason(creating_fails, bundle, tmp_path):
    mount, _ = overlay(tmp_path, 500)
    assert "too many layers" in creating_fails(bundle(), rootfs=[mount])


def test_an_image_has_a_single_layer(run, files, tmp_path):
    made = files("write", "/new", "x")
    layer = tmp_path / "layer"
    made.root.rename(layer)
    made.root.mkdir()
    mount = Mount(type="bind", source=str(layer), options=["rbind", "rw"])
    assert run(made, rootfs=[mount])[0] == 0
    assert (layer / "new").read_text() == "x"
    (layer / "new").unlink()
    mount = Mount(type="bind", source=str(layer), options=["rbind", "ro"])
    assert run(files("write", "/new", "x", name="again"), rootfs=[mount])[0] == 1


def test_a_snapshot_that_cannot_be_mounted_is_refused_with_the_reason(creating_fails, bundle):
    for kind in ("overlay", "bind", "nosuchfs"):
        mount = Mount(type=kind, source="/no/where", options=["rbind"] if kind == "bind" else ["lowerdir=/no:/where"])
        assert kind in creating_fails(bundle(name=kind), StatusCode.UNKNOWN, rootfs=[mount])


def test_the_first_mounts_are_undone_if_a_later_fails(creating_fails, bundle, tmp_path):
    mount, layers = overlay(tmp_path, 2)
    made = bundle()
    (made.root / "hello.wasm").rename(layers[0] / "hello.wasm")
    (tmp_path / "file").write_text("x")
    made.configure("/hello.wasm", mounts=[bind(tmp_path / "file", "/a"), bind(tmp_path / "file", "/hello.wasm/b")])
    creating_fails(made, StatusCode.UNKNOWN, rootfs=[mount])


# ---- images that mean harm ----


def test_nothing_outside_the_image_can_be_read_or_changed(run, files, outside):
    before = listing(outside)
    number = 0
    for path in (
        "/absolute/secret", "/relative/secret", "/file", "/up", "/loop", "/../../outside/secret", "../outside/secret",
        str(outside / "secret"), "/absolute/../secret", "/proc/self/root" + str(outside) + "/secret",
    ):  # fmt: skip
        for verb in ("read", "write", "rm", "ls", "mkdir"):
            number += 1
            made = files(verb, path, *(["pwned"] if verb == "write" else []), name=f"b{number}")
            (made.root / "absolute").symlink_to(outside)
            (made.root / "relative").symlink_to("../../outside")
            (made.root / "file").symlink_to(outside / "secret")
            (made.root / "up").symlink_to("../../../../../../../../../../etc/passwd")
            (made.root / "loop").symlink_to("loop")
            _, out, err = run(made)
            assert SECRET not in out + err
            assert "root:" not in out + err
            assert listing(outside) == before


@pytest.mark.parametrize("link", ["absolute", "relative", "dangling"])
def test_no_volume_can_be_mounted_outside_the_image(run, files, outside, tmp_path, link):
    """What a link in the image says is meant within the image, and made there."""
    before = listing(outside)
    (tmp_path / "file").write_text("volume")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("volume")
    made = files("read", "/etc/config")
    target = {"absolute": str(outside), "relative": "../../outside", "dangling": f"{outside}/none"}[link]
    (made.root / "etc").symlink_to(target)
    made.configure(
        "/files.wasm", "read", "/etc/config",
        mounts=[bind(tmp_path / "file", "/etc/config"), bind(tmp_path / "folder", "/etc/secret/deep")],
    )  # fmt: skip
    run(made)
    assert listing(outside) == before
    made.configure(
        "/files.wasm", "read", "/etc/secret/deep/inside",
        mounts=[bind(tmp_path / "file", "/etc/config"), bind(tmp_path / "folder", "/etc/secret/deep")],
    )  # fmt: skip
    assert run(made)[:2] == (0, "volume")
    assert listing(outside) == before


@pytest.mark.parametrize("target", ["/run/systemd/resolve/stub-resolv.conf", "../run/resolv.conf", "{outside}/new"])
def test_a_file_is_mounted_where_a_dangling_link_leads(run, files, outside, tmp_path, target):
    """As images have it with /etc/resolv.conf."""
    before = listing(outside)
    (tmp_path / "file").write_text("nameserver 10.0.0.1\n")
    made = files("stat", "/etc/resolv.conf")
    (made.root / "etc").mkdir()
    (made.root / "etc" / "resolv.conf").symlink_to(target.format(outside=outside))
    made.configure("/files.wasm", "ls", "/etc", mounts=[bind(tmp_path / "file", "/etc/resolv.conf", "ro")])
    assert run(made)[0] == 0
    assert listing(outside) == before
    place = target.format(outside=outside) if target.startswith(("/", "{")) else "/run/resolv.conf"
    made.configure("/files.wasm", "read", place, mounts=[bind(tmp_path / "file", "/etc/resolv.conf", "ro")])
    assert run(made)[:2] == (0, "nameserver 10.0.0.1\n")


@pytest.mark.parametrize("destination", ["/../../x", "/a/../../../x", "/loop/x", "/hello.wasm/../../x", "/"])
def test_a_destination_cannot_climb(ttrpc, daemon, ident, bundle, outside, tmp_path, destination):
    made = bundle()
    (made.root / "loop").symlink_to("/loop")
    made.configure("/hello.wasm", mounts=[bind(outside, destination)])
    before = listing(tmp_path)
    try:
        ttrpc.Create(id=ident, bundle=str(made.folder))
    except RpcError:
        pass
    else:
        assert all(point.startswith(f"{made.root}") for point in daemon.mounts(tmp_path))
        ttrpc.Delete(id=ident)
    assert daemon.mounts(tmp_path) == []
    assert {name for name in listing(tmp_path) if not name.startswith("bundle/rootfs")} == {
        name for name in before if not name.startswith("bundle/rootfs")
    }


@pytest.mark.parametrize("where", ["image", "volume", "bind", "inner"])
def test_a_device_in_an_image_or_volume_cannot_be_opened(run, files, tmp_path, where):
    """runc has the devices cgroup for that; a guest runs in the daemon, which may open the machine's disks."""
    made = files("write", "/data/device", "x")
    folder = {"image": made.root / "data"}.get(where, tmp_path / "volume")
    folder.mkdir()
    os.mknod(folder / "device", 0o666 | 0o020000, os.makedev(1, 3))  # /dev/null, which takes everything
    (tmp_path / "file").write_text("x")
    given = {
        "image": [],
        "volume": [bind(folder, "/data")],
        "bind": [bind(folder / "device", "/data/device")],
        "inner": [bind(folder, "/data"), bind(tmp_path / "file", "/data/file")],
    }[where]
    made.configure("/files.wasm", "write", "/data/device", "x", mounts=given)
    code, _, err = run(made)
    assert code == 1, err
    assert "device" in err


def test_a_fifo_in_an_image_holds_up_nobody(ttrpc, run, files, bundle, ident):
    made = files("read", "/fifo")
    os.mkfifo(made.root / "fifo")
    ttrpc.Create(id=f"{ident}-x", bundle=str(made.folder))
    ttrpc.Start(id=f"{ident}-x")
    assert run(bundle("hello", name="other"))[0] == 0
    assert ttrpc.Wait(id=f"{ident}-x").exit_status == 1
    ttrpc.Delete(id=f"{ident}-x")


def test_a_guest_cannot_swap_a_volumes_folder_to_reach_the_host(run, files, outside, tmp_path, ttrpc, ident, daemon):
    """A pod's containers share volumes: one may turn a folder that holds another's mount into a link."""
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    subprocess.run(["mount", "--bind", outside, outside], check=True)  # a mount of the host's that must stay
    try:
        made = files(
            "read", "/data/sub/secret", mounts=[bind(shared, "/data"), bind(tmp_path / "file", "/data/sub/secret")]
        )
        ttrpc.Create(id=ident, bundle=str(made.folder))
        (shared / "sub").rename(shared / "moved")
        (shared / "sub").symlink_to(outside)
        ttrpc.Delete(id=ident)
        assert daemon.mounts(made.folder) == []
        assert [point for point in daemon.mounts(tmp_path) if point == str(outside)]
    finally:
        subprocess.run(["umount", "-l", outside], check=True)
