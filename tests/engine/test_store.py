"""The module store: nothing is loaded that we did not write, nothing is compiled twice, and it keeps its size."""

import gc
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
import wasmtime

from tests.support.cli import PATIENCE, Cli, example, wait_for_guest
from tests.support.guests import HereRunner, new_engine
from tests.support.modules import EMPTY, binary, heavy_module
from wasm_sandboxer.engine import store as store_module
from wasm_sandboxer.engine.image import Image
from wasm_sandboxer.engine.interface import Interface, Signature
from wasm_sandboxer.engine.protocol import ExportItem, ImportItem, Kind
from wasm_sandboxer.engine.source import read_source
from wasm_sandboxer.engine.store import Facts, Held, ModuleStore
from wasm_sandboxer.engine.wasm import Memory, Spaces
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine, store_key
from wasm_sandboxer.engine.wasmtime.runtime import configuration
from wasm_sandboxer.errors import FailedPrecondition, NotFound, Unavailable

FACTS = Facts(
    kind=Kind.MODULE,
    spaces=Spaces(
        memories=(Memory(minimum=1, maximum=None, shared=False, is_64=True, imported=True),),
        tables=(Memory(minimum=7, maximum=7, shared=False, is_64=False),),
    ),
    interface=Interface(
        imports=(ImportItem(module="env", name="f", type="func ()"),),
        exports=(ExportItem(name="g", type="func (i32)"),),
        functions={"g": Signature(params=("i32",), results=())},
    ),
    image=Image(offset=65536, address=0, size=65536, memory=131072),
    source="name.wasm",
    source_size=5,
    compile_seconds=0.5,
)
CODE = b"compiled code, as far as the store knows" * 100
THROWN = r"module store: {}… is thrown away and will be compiled anew: "


@pytest.fixture
def store(tmp_path: Path) -> ModuleStore:
    return ModuleStore(tmp_path / "root", "key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store of this test keeps its files."""
    return tmp_path / "root" / "modules" / "key"


def put(store: ModuleStore, name: str = "a", code: bytes = CODE) -> str:
    """Store code under a digest made of the name, and let go of it."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    hold(store, digest, code).close()
    return digest


def hold(store: ModuleStore, digest: str, code: bytes = CODE) -> Held:
    with store.compiling(digest), store.new_file(digest) as fd:
        os.write(fd, code)
        return store.publish(digest, fd, FACTS)


def found(store: ModuleStore, digest: str) -> bytes | None:
    held = store.find(digest)
    if held is None:
        return None
    content = Path(held.path).read_bytes()
    held.close()
    return content


def descriptors() -> list[str]:
    """Where this process's descriptors lead."""
    return sorted(str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


class Interrupting:
    """A debugger that raises KeyboardInterrupt before the `nth` line of the store's that is run."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, frame: FrameType, event: str, _: object) -> "Interrupting | None":
        if frame.f_code.co_filename != store_module.__file__:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


# --- what is kept


def test_what_is_published_is_found_with_its_facts(store: ModuleStore) -> None:
    digest = put(store)
    held = store.find(digest)
    assert held is not None
    assert Path(held.path).read_bytes() == CODE
    assert held.facts == FACTS
    held.close()


def test_facts_of_a_component_are_kept_too(store: ModuleStore) -> None:
    facts = replace(FACTS, kind=Kind.COMPONENT, interface=None)
    with store.new_file("d") as fd:
        store.publish("d", fd, facts).close()
    held = store.find("d")
    assert held is not None
    assert held.facts == facts
    held.close()


def test_what_was_never_published_is_not_found(store: ModuleStore, folder: Path) -> None:
    with store.new_file("d") as fd:
        os.write(fd, CODE)
    assert store.find("d") is None
    assert list(folder.iterdir()) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what it left open
def test_an_interrupt_at_any_line_leaves_a_whole_module_or_nothing(store: ModuleStore, folder: Path) -> None:
    for nth in range(1, 1000):
        digest = hashlib.sha256(b"%d" % nth).hexdigest()  # its own: a lock may still be held here
        before = sys.gettrace()
        interrupting = Interrupting(nth)
        sys.settrace(interrupting)
        try:
            with store.compiling(digest), store.new_file(digest) as fd:
                os.write(fd, CODE)
                store.publish(digest, fd, FACTS).close()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        # A lock that nobody holds is in nobody's way; it can stay where the interrupt comes before its removal.
        left = sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
        assert left in ([], [f"{digest}.cwasm", f"{digest}.json"]), nth
        if left:
            held = store.find(digest)
            assert held is not None
            held.close()
            store.discard(digest)
        if interrupting.left > 0:  # it came to the end
            return
    pytest.fail("there is no end to its lines")


def test_only_the_owner_can_read_or_write_any_of_it(store: ModuleStore, folder: Path, tmp_path: Path) -> None:
    put(store)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "root").rglob("*")}
    assert {mode for name, mode in modes.items() if "." in name} == {0o600}
    assert {mode for name, mode in modes.items() if "." not in name} == {0o700}


def test_a_held_module_can_be_read_when_it_is_gone(store: ModuleStore) -> None:
    held = hold(store, "d")
    store.discard("d")
    assert Path(held.path).read_bytes() == CODE
    held.close()
    held.close()


def test_another_key_is_another_store(store: ModuleStore, tmp_path: Path) -> None:
    digest = put(store)
    other = ModuleStore(tmp_path / "root", "other")
    assert other.find(digest) is None
    assert [entry.key for entry in other.entries()] == ["key"]


def test_no_descriptor_is_left(store: ModuleStore) -> None:
    before = descriptors()
    digest = put(store)
    found(store, digest)
    store.entries()
    flip(next(Path(store._folder).glob("*.cwasm")))
    found(store, digest)
    store.prune()
    assert descriptors() == before


# --- what is not trusted


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def restore_times(path: Path) -> None:
    state = path.stat()
    flip(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_socket(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)
    (path / "something").touch()


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit flipped": (flip, "its content was changed"),
    "a bit flipped and the times restored": (restore_times, "its content was changed"),
    "cut short": (lambda path: os.truncate(path, len(CODE) - 1), "its content was changed"),
    "emptied": (lambda path: os.truncate(path, 0), "its content was changed"),
    "made longer": (lambda path: path.write_bytes(CODE + b"x"), "its content was changed"),
    "replaced": (
        lambda path: [path.unlink(), path.write_bytes(CODE[::-1]), path.chmod(0o600)],
        "its content was changed",
    ),
    "writable by the group": (lambda path: path.chmod(0o620), "somebody else owns it or may write it"),
    "writable by all": (lambda path: path.chmod(0o602), "somebody else owns it or may write it"),
    "a link": (replace_by_link, "a symbolic link is in its place"),
    "a fifo": (replace_by_fifo, "somebody else owns it or may write it"),
    "a socket": (replace_by_socket, "a socket is in its place"),
    "a folder": (replace_by_folder, "somebody else owns it or may write it"),
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_what_was_tampered_with_is_thrown_away_with_one_line(
    store: ModuleStore, folder: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    tamper, problem = TAMPERINGS[how]
    digest = put(store)
    tamper(folder / f"{digest}.cwasm")
    assert found(store, digest) is None
    assert caplog.messages == [THROWN.format(digest[:12]) + problem]
    assert not [path for path in folder.iterdir() if path.suffix != ".elsewhere"]
    put(store)
    assert found(store, digest) == CODE


@pytest.mark.usefixtures("superuser")
def test_what_somebody_else_owns_is_thrown_away(
    store: ModuleStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = put(store)
    os.chown(folder / f"{digest}.cwasm", 4321, 4321)
    assert found(store, digest) is None
    assert caplog.messages == [THROWN.format(digest[:12]) + "somebody else owns it or may write it"]


INDEXES = [
    b"", b"{", b"null", b"[]", b"{}", b'"text"', b"\xff", b"[" * 100_000, b'{"facts": {}}', b'{"facts": null}',
    b'{"facts": {"kind": "module", "memories": [], "interface": null}, "state": [], "sha256": ""}',
    b'{"facts": {"kind": "none", "memories": [], "interface": null}, "state": [], "sha256": ""}',
]  # fmt: skip


@pytest.mark.parametrize("content", INDEXES)
def test_an_index_that_is_none_is_thrown_away(
    store: ModuleStore, folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    digest = put(store)
    (folder / f"{digest}.json").write_bytes(content)
    assert found(store, digest) is None
    (message,) = caplog.messages
    assert re.fullmatch(THROWN.format(digest[:12]) + r"its index cannot be read \(\w+\)", message)
    assert store.entries() == []


@pytest.mark.parametrize("missing", ["state", "sha256", "facts"])
def test_an_index_with_a_part_missing_is_thrown_away(store: ModuleStore, folder: Path, missing: str) -> None:
    digest = put(store)
    index = folder / f"{digest}.json"
    content = json.loads(index.read_bytes())
    del content[missing]
    index.write_text(json.dumps(content))
    assert found(store, digest) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("source_size", "abc"), ("source_size", 10**400), ("source", 5), ("compile_seconds", None),
     ("image", {"offset": "0", "address": 0, "size": 0, "memory": 0}), ("image", [1])],
)  # fmt: skip
def test_an_index_with_another_type_in_it_is_thrown_away(
    store: ModuleStore, folder: Path, name: str, value: object
) -> None:
    digest = put(store)
    index = folder / f"{digest}.json"
    content = json.loads(index.read_bytes())
    content["facts"][name] = value
    index.write_text(json.dumps(content))
    assert store.entries() == []
    assert found(store, digest) is None


def test_an_index_that_names_another_digest_is_thrown_away(store: ModuleStore, folder: Path) -> None:
    one, two = put(store, "one"), put(store, "two", CODE + b"two")
    shutil.copy(folder / f"{two}.json", folder / f"{one}.json")
    assert found(store, one) is None
    assert found(store, two) == CODE + b"two"


@pytest.mark.parametrize("suffix", ["json", "cwasm"])
def test_a_lost_half_is_compiled_anew(
    store: ModuleStore, folder: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    digest = put(store)
    (folder / f"{digest}.{suffix}").unlink()
    assert found(store, digest) is None
    put(store)
    assert found(store, digest) == CODE
    assert caplog.messages == []


def test_what_was_only_moved_is_trusted_by_its_content(
    store: ModuleStore, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = put(store)
    os.utime(folder / f"{digest}.cwasm", (1, 1))
    assert found(store, digest) == CODE
    shutil.copytree(tmp_path / "root", tmp_path / "copy", copy_function=shutil.copy)
    for path in ("copy", "copy/modules", "copy/modules/key"):
        (tmp_path / path).chmod(0o700)
    assert found(ModuleStore(tmp_path / "copy", "key"), digest) == CODE
    assert caplog.messages == []


def test_content_is_hashed_only_when_something_changed(
    store: ModuleStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store)
    hashed: list[int] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: hashed.append(1) or real(*given))
    found(store, digest)
    assert hashed == []
    os.utime(folder / f"{digest}.cwasm", (1, 1))
    found(store, digest)
    found(store, digest)
    assert hashed == [1]


# --- places that are not ours


@pytest.mark.parametrize("part", ["root", "root/modules", "root/modules/key"])
def test_a_folder_that_others_may_write_is_refused(store: ModuleStore, tmp_path: Path, part: str) -> None:
    (tmp_path / part).chmod(0o770)
    with pytest.raises(FailedPrecondition, match=r"must belong to user .* with mode 770"):
        ModuleStore(tmp_path / "root", "key")


@pytest.mark.parametrize("part", ["root", "root/modules", "root/modules/key"])
def test_a_link_in_place_of_a_folder_is_refused(store: ModuleStore, tmp_path: Path, part: str) -> None:
    (tmp_path / part).rename(tmp_path / "real")
    (tmp_path / part).symlink_to(tmp_path / "real")
    with pytest.raises(FailedPrecondition, match="needs a folder"):
        ModuleStore(tmp_path / "root", "key")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(Unavailable, match="cannot make the module store"):
        ModuleStore(tmp_path / "root", "key")


def test_a_store_that_went_away_is_unavailable(store: ModuleStore, folder: Path) -> None:
    shutil.rmtree(folder)
    assert store.find("d") is None
    with pytest.raises(Unavailable, match="cannot write to the module store"), store.compiling("d"):
        pass


# --- what a crash leaves


def test_leftovers_of_a_dead_process_are_in_nobodys_way(store: ModuleStore, folder: Path) -> None:
    digest = hashlib.sha256(b"a").hexdigest()
    for name in (f"{digest}.lock", f"{digest}.{os.getpid()}.tmp", f"{digest}.{os.getpid()}.index.tmp"):
        (folder / name).write_bytes(b"left")
    assert put(store) == digest
    assert found(store, digest) == CODE
    assert {path.suffix for path in folder.iterdir()} == {".cwasm", ".json"}


def test_old_temporary_files_are_swept_and_young_ones_kept(store: ModuleStore, folder: Path) -> None:
    (folder / "old.1.tmp").touch()
    (folder / "young.1.tmp").touch()
    os.utime(folder / "old.1.tmp", (time.time() - 3700,) * 2)
    put(store)
    assert [path.name for path in folder.glob("*.tmp")] == ["young.1.tmp"]


def test_pruning_removes_what_ended_processes_left_and_what_cannot_be_read(store: ModuleStore, folder: Path) -> None:
    (folder / f"{put(store, 'a')}.json").write_text("{")
    (folder / f"{put(store, 'b')}.json").unlink()
    replace_by_link(folder / f"{put(store, 'c')}.cwasm")
    for name in ("dead.lock", "dead.1.tmp", "gone.1.tmp", "gone.1.index.tmp"):
        (folder / name).touch()
    kept = put(store, "kept")
    with store.compiling("alive"), store.new_file("alive"):
        assert store.prune(unused_for=60) == []
        names = {path.name for path in folder.iterdir() if path.suffix != ".elsewhere"}
        assert names == {"alive.lock", f"alive.{os.getpid()}.tmp", f"{kept}.cwasm", f"{kept}.json"}


def test_what_is_being_published_is_not_pruned(store: ModuleStore, folder: Path) -> None:
    held = hold(store, "d")
    (folder / "d.json").unlink()  # as before it is written
    store.prune()
    assert (folder / "d.cwasm").exists()
    held.close()


def test_a_compiler_that_was_killed_leaves_its_place_to_the_next(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "heavy.wasm").write_bytes(heavy_module())
    process = fresh.start("compile", "heavy.wasm")
    while not list(fresh.root.glob("modules/*/*.tmp")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    assert {path.suffix for path in fresh.root.glob("modules/*/*")} == {".lock", ".tmp"}
    assert "takes longer" in fresh.refused("compile", "--compile-timeout", "50ms", "heavy.wasm")
    assert [path.suffix for path in fresh.root.glob("modules/*/*")] == [".tmp"]


# --- compiling once


def test_one_compiles_while_the_others_wait(store: ModuleStore) -> None:
    inside: list[int] = []
    most: list[int] = []

    def compile_once() -> None:
        with store.compiling("d"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    threads = [threading.Thread(target=compile_once) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (most, list(store._folder.iterdir())) == ([1] * 10, [])


def test_threads_that_want_the_same_module_share_one_compilation(tmp_path: Path) -> None:
    runner = HereRunner()
    engine = WasmtimeEngine(ModuleStore(tmp_path / "root", store_key()), runner=runner)
    source, programs = read_source(example("hello")), []
    threads = [threading.Thread(target=lambda: programs.append(engine.load(source))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(programs) == 20
    assert len({id(program) for program in programs}) == 1
    assert runner.jobs == 3  # the module, and the engine's own two


def test_processes_that_want_the_same_module_share_one_compilation(fresh: Cli) -> None:
    running = [fresh.start("compile", example("worker")) for _ in range(8)]
    ended = [process.communicate(timeout=PATIENCE) for process in running]
    said = [stdout.decode() for stdout, _ in ended]
    assert [stderr for _, stderr in ended] == [b""] * 8
    assert sum(": compiled in " in line for line in said) == 1
    assert sum(": already in the store" in line for line in said) == 7


def test_a_module_that_was_refused_is_refused_to_all_who_wait(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.wat").write_text('(module (func (export "_start") i32.add))')
    running = [fresh.start("compile", "bad.wat") for _ in range(4)]
    assert [process.wait(PATIENCE) for process in running] == [2] * 4
    assert list(fresh.root.glob("modules/*/*")) == []


# --- what another version made


def stored_as(root: Path, path: Path, code: bytes) -> None:
    """Put code into the store as if it were what we compiled the module to."""
    engine = new_engine(root)
    digest = engine.compile(read_source(path)).digest
    store = ModuleStore(root, store_key())
    held = store.find(digest)
    assert held is not None
    facts = held.facts
    held.close()
    with store.compiling(digest), store.new_file(digest) as fd:
        os.write(fd, code)
        store.publish(digest, fd, facts).close()


def of_another_configuration() -> bytes:
    config = configuration()
    config.consume_fuel = True
    return bytes(wasmtime.Module(wasmtime.Engine(config), binary(EMPTY)).serialize())


def of_another_version() -> bytes:
    code = bytes(wasmtime.Module(wasmtime.Engine(configuration()), binary(EMPTY)).serialize())
    assert b"\x0247" in code  # the length of the version, and the version
    return code.replace(b"\x0247", b"\x0246")


@pytest.mark.parametrize(
    "code",
    [of_another_configuration, of_another_version, lambda: b"", lambda: b"garbage", lambda: b"\x7fELF" + bytes(999)],
)
def test_what_another_version_compiled_is_compiled_anew_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: Callable[[], bytes]
) -> None:
    path = tmp_path / "empty.wasm"
    path.write_bytes(binary(EMPTY))
    stored_as(tmp_path / "root", path, code())
    engine = new_engine(tmp_path / "root")
    program = engine.load(read_source(path))
    digest = hashlib.sha256(binary(EMPTY)).hexdigest()
    (message,) = caplog.messages
    assert message.startswith(THROWN.format(digest[:12]) + "failed deserialization for: ")
    assert "\n" not in message
    assert [item.name for item in program.exports] == ["memory", "_start"]


# --- its size


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = ModuleStore(tmp_path / "root", "key", capacity=3 * len(CODE))
    digests = [put(store, name) for name in "abc"]
    for age, digest in zip((30, 20, 10), digests, strict=True):
        os.utime(store._folder / f"{digest}.json", (time.time() - age,) * 2)
    found(store, digests[0])
    digests.append(put(store, "d"))
    assert {entry.digest for entry in store.entries()} == {digests[0], digests[2], digests[3]}


def test_what_is_in_use_stays_and_others_go(tmp_path: Path) -> None:
    store = ModuleStore(tmp_path / "root", "key", capacity=2 * len(CODE))
    held = hold(store, "oldest")
    os.utime(store._folder / "oldest.json", (1, 1))
    put(store, "b")
    put(store, "c")
    assert [entry.digest for entry in store.entries() if entry.in_use] == ["oldest"]
    assert len(store.entries()) == 2
    held.close()
    put(store, "d")
    assert "oldest" not in {entry.digest for entry in store.entries()}


def test_the_cap_counts_what_other_versions_left(tmp_path: Path) -> None:
    put(ModuleStore(tmp_path / "root", "old"), "a")
    store = ModuleStore(tmp_path / "root", "key", capacity=len(CODE))
    digest = put(store, "b")
    assert [(entry.key, entry.digest) for entry in store.entries()] == [("key", digest)]


def test_a_module_larger_than_the_cap_is_held_until_it_is_let_go(tmp_path: Path) -> None:
    store = ModuleStore(tmp_path / "root", "key", capacity=1)
    held = hold(store, "a")
    assert Path(held.path).read_bytes() == CODE
    held.close()
    hold(store, "b").close()
    assert [entry.digest for entry in store.entries()] == ["b"]


# --- removing


def test_removal_knows_what_it_removes(store: ModuleStore) -> None:
    digest = put(store)
    with pytest.raises(NotFound, match="no module 'zz' in the store"):
        store.remove("zz")
    with pytest.raises(NotFound, match="no module '' in the store"):
        store.remove("")
    assert store.remove(digest[:6]).digest == digest
    assert store.entries() == []


def test_a_folder_in_a_modules_place_is_removed_too(store: ModuleStore, folder: Path) -> None:
    for remove in (lambda digest: [store.remove(digest)], lambda _: store.prune()):
        digest = put(store)
        replace_by_folder(folder / f"{digest}.cwasm")
        assert [entry.digest for entry in remove(digest)] == [digest]
        assert list(folder.iterdir()) == []


def test_eviction_reads_no_index(store: ModuleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    monkeypatch.setattr(ModuleStore, "entries", lambda _: pytest.fail("an index was read"))
    put(store, "b")


def test_removal_of_what_is_in_use_is_refused(store: ModuleStore) -> None:
    held = hold(store, "abc")
    with pytest.raises(FailedPrecondition, match="module abc is in use"):
        store.remove("abc")
    assert store.prune() == []
    held.close()
    assert [entry.digest for entry in store.prune()] == ["abc"]


def test_a_program_holds_its_module_for_as_long_as_it_lives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    engine = new_engine(tmp_path / "root")
    program = engine.load(read_source(example("hello")))
    assert engine.load(read_source(example("hello"))) is program
    store = ModuleStore(tmp_path / "root", store_key())
    assert [entry.facts.source for entry in store.entries() if entry.in_use] == ["hello.wasm"]
    del program, engine
    gc.collect()
    assert not any(entry.in_use for entry in store.entries())


# --- shared pages


def mappings(pid: int, suffix: str) -> list[dict[str, str]]:
    """The parts of a process's memory that are mapped from files whose name ends so, from /proc/PID/smaps."""
    found_parts: list[dict[str, str]] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        header = re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ (\S+) (\d+)\s*(.*)", line)
        if header:
            found_parts.append(dict(zip(("mode", "device", "inode", "path"), header.groups(), strict=True)))
        else:
            name, _, value = line.partition(":")
            found_parts[-1][name] = value.strip()
    return [part for part in found_parts if part["path"].endswith(suffix)]


def any_shared(pid: int, digest: str) -> bool:
    """Whether another process has mapped a page of the compiled module that this one has."""
    found = mappings(pid, f"{digest}.cwasm")
    return any(int(part[f"Shared_{how}"].split()[0]) for how in ("Clean", "Dirty") for part in found)


def test_processes_share_the_pages_of_a_compiled_module(cli: Cli) -> None:
    digest = hashlib.sha256(example("cat").read_bytes()).hexdigest()
    running = [cli.start("run", example("cat")) for _ in range(2)]
    for process in running:
        wait_for_guest(process, "cat.wasm")
    deadline = time.monotonic() + PATIENCE
    while not any_shared(running[0].pid, digest):  # until both have come to their first instructions
        assert time.monotonic() < deadline
    one, two = (mappings(process.pid, f"{digest}.cwasm") for process in running)
    code = [part for part in one if part["mode"] == "r-xp"]
    assert code
    assert {(part["device"], part["inode"]) for part in one} == {(part["device"], part["inode"]) for part in two}
    assert all(part["Anonymous"] == "0 kB" for part in code)
