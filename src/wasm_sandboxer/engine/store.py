"""The module store: compiled modules on disk, by digest of the source and a key of what compiled them.

    <root>/modules/<key>/<digest>.cwasm    compiled code, mapped by every process that runs it
    <root>/modules/<key>/<digest>.json     what it is, its own digest, and the inode state it was left in
    <root>/modules/<key>/<digest>.lock     held while one process compiles it

Compiled code is machine code that the engine trusts completely, so it is loaded only if its owner and mode say
that nobody but us could have written it, and if it is what we wrote: size, inode, mtime and ctime are those
noted after it was published, or else its SHA-256 is. A change of content cannot leave the ctime as it was.

The index file's mtime is the time of last use. A file is in use while somebody holds a shared flock on it.
Knows no engine. Any thread and any number of processes may use one store.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wasm_sandboxer.engine.image import Image
from wasm_sandboxer.engine.interface import Interface
from wasm_sandboxer.engine.protocol import Kind
from wasm_sandboxer.engine.wasm import Spaces
from wasm_sandboxer.errors import FailedPrecondition, NotFound, Unavailable

DEFAULT_CAPACITY = 4 << 30
_STALE_SECONDS = 3600  # a temporary file this old belongs to a process that died
_NO_FILE = (errno.ELOOP, errno.ENXIO)  # what opening says of a symbolic link, with O_NOFOLLOW, and of a socket
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # not waiting for a FIFO's writer
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a compiled module besides its code."""

    kind: Kind
    spaces: Spaces
    interface: Interface | None  # None for a component, whose types the engine tells
    image: Image | None  # what its memory holds at the start, behind the code in the same file
    source: str  # the name it had when it was compiled, for people
    source_size: int
    compile_seconds: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A module in the store, for listings; sizes in bytes, times in seconds since the epoch."""

    digest: str
    key: str
    facts: Facts
    size: int
    created: float
    last_used: float
    in_use: bool


class Held:
    """A compiled file that is open, checked, and kept from eviction until close(); `new` if just published."""

    def __init__(self, fd: int, facts: Facts, *, new: bool = False) -> None:
        self._fd = fd
        self.facts = facts
        self.new = new

    @property
    def fd(self) -> int:
        """The file's descriptor."""
        return self._fd

    @property
    def path(self) -> str:
        """A path to exactly this file, whatever has become of its name."""
        return f"/proc/self/fd/{self._fd}"

    def close(self) -> None:
        """Let the file be evicted."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Untrusted(Exception):
    """Why a compiled file must not be loaded."""


class ModuleStore:
    """One root directory; `key` tells apart what different engines, configurations and processors compiled."""

    def __init__(self, root: Path, key: str, *, capacity: int = DEFAULT_CAPACITY) -> None:
        """Make or check the directories; raises FailedPrecondition or Unavailable, saying what to do."""
        self._modules = root / "modules"
        self._key = key
        self._capacity = capacity
        self._folder = self._modules / key
        for folder in (root, self._modules, self._folder):
            _own_folder(folder)

    def find(self, digest: str) -> Held | None:
        """The compiled module, held; None if there is none. What is there but cannot be trusted is removed."""
        with ExitStack() as undo:
            try:
                fd = os.open(self._folder / f"{digest}.cwasm", _READ)
                undo.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_SH)
                facts = self._check(fd, digest)
            except FileNotFoundError:
                return None
            except _Untrusted as problem:
                self._distrust(digest, str(problem))
                return None
            except OSError as error:
                if error.errno not in _NO_FILE:
                    raise Unavailable(f"cannot read the module store at {self._folder}: {error.strerror}") from None
                what = "symbolic link" if error.errno == errno.ELOOP else "socket"
                self._distrust(digest, f"a {what} is in its place")
                return None
            with suppress(OSError):
                _mark_used(self._folder / f"{digest}.json", time.time())
            undo.pop_all()
            return Held(fd, facts)

    @contextmanager
    def compiling(self, digest: str) -> Iterator[None]:
        """Hold the right to compile this module, waiting for whoever holds it now."""
        path = self._folder / f"{digest}.lock"
        fd, held = -1, False
        try:  # an interrupt may come between any two steps
            while not held:
                if fd >= 0:  # whoever held it removed it: take the new one
                    os.close(fd)
                with self.writing():
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX)
                held = _is_same(path, fd)
            yield
        finally:
            if held:
                path.unlink(missing_ok=True)
            if fd >= 0:
                os.close(fd)

    @contextmanager
    def new_file(self, digest: str) -> Iterator[int]:
        """A descriptor to write compiled code to; the file is gone afterwards unless publish() took it.

        For the holder of compiling(): a file of this name was left by a process that died with our id.
        """
        path = self._temporary(digest)
        with self.writing():
            path.unlink(missing_ok=True)
        fd = -1
        try:  # an interrupt may come as soon as the file is there
            with self.writing():
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            yield fd
        finally:
            path.unlink(missing_ok=True)
            if fd >= 0:
                os.close(fd)

    def publish(self, digest: str, fd: int, facts: Facts) -> Held:
        """Make what was written to new_file's descriptor the module's compiled form; durable, whole or not at all."""
        with self.writing():
            code = _sha256(fd)
            os.fsync(fd)
            fcntl.flock(fd, fcntl.LOCK_SH)  # before it has a name: nobody may evict what is about to be used
            try:
                self._temporary(digest).rename(self._folder / f"{digest}.cwasm")
                self._write_index(digest, fd, code, facts)
            except BaseException:
                self.discard(digest)
                raise
            self._evict()
            return Held(os.dup(fd), facts, new=True)

    def entries(self) -> list[Entry]:
        """Everything the store holds, of all keys, most recently used first."""
        found = [entry for path in self._modules.glob("*/*.json") if (entry := _entry(path)) is not None]
        return sorted(found, key=lambda entry: -entry.last_used)

    def remove(self, digest: str) -> Entry:
        """Remove a module, by its digest or the beginning of it; raises NotFound, or FailedPrecondition if in use."""
        matches = [entry for entry in self.entries() if entry.digest.startswith(digest)]
        if not matches or not digest:
            raise NotFound(f"no module {digest!r} in the store")
        if len({entry.digest for entry in matches}) > 1:
            raise FailedPrecondition(
                f"{digest!r} is the beginning of {len(matches)} modules' digests; give more of it"
            )
        for entry in matches:
            if not self._remove(entry):
                raise FailedPrecondition(f"module {entry.digest[:12]} is in use")
        return matches[0]

    def prune(self, *, unused_for: float = 0) -> list[Entry]:
        """Remove what nobody uses, was not used for so many seconds, or was compiled by another version.

        And what is of no use to anybody: files whose index cannot be read, and what ended processes left.
        """
        now = time.time()
        entries = self.entries()
        old = [entry for entry in entries if self._is_old(entry.key) or now - entry.last_used >= unused_for]
        removed = [entry for entry in old if self._remove(entry)]
        with self.writing():
            self._sweep({(entry.key, entry.digest) for entry in entries})
        for folder in self._modules.iterdir():
            if folder.name != self._key:
                with suppress(OSError):  # not empty: something in it is in use
                    folder.rmdir()
        return removed

    def _is_old(self, key: str) -> bool:
        """Whether a key is of the same engine as ours and yet another: a key begins with its engine's name."""
        return key != self._key and key.partition("-")[0] == self._key.partition("-")[0]

    def _temporary(self, digest: str) -> Path:
        return self._folder / f"{digest}.{os.getpid()}.tmp"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raise Unavailable, which names the store and says what to do, for an OSError of what is done inside."""
        try:
            yield
        except OSError as error:
            room = "make room there, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise Unavailable(
                f"cannot write to the module store at {self._folder}: {error.strerror}; "
                f"{room}choose another with --root"
            ) from None

    def _check(self, fd: int, digest: str) -> Facts:
        """What is known of the open file; raises _Untrusted if it must not be loaded."""
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
            raise _Untrusted("somebody else owns it or may write it")
        try:
            index = json.loads((self._folder / f"{digest}.json").read_bytes())
            facts = _facts(index)
            noted, code = index["state"], index["sha256"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _Untrusted(f"its index cannot be read ({type(error).__name__})") from None
        if noted != _state(state):
            if _sha256(fd) != code:
                raise _Untrusted("its content was changed")
            with suppress(OSError):  # ours all the same: moved or restored from a copy
                self._write_index(digest, fd, code, facts)
        return facts

    def _distrust(self, digest: str, problem: str) -> None:
        _log.warning("module store: %s… is thrown away and will be compiled anew: %s", digest[:12], problem)
        self.discard(digest)

    def discard(self, digest: str) -> None:
        """Remove a compiled module whatever its state; programs that have it mapped keep it."""
        with self.writing():
            for suffix in ("json", "cwasm"):
                _delete(self._folder / f"{digest}.{suffix}")

    def _write_index(self, digest: str, fd: int, code: str, facts: Facts) -> None:
        created = time.time()
        index = {
            "sha256": code,
            "state": _state(os.fstat(fd)),
            "facts": asdict(facts),
            "created": created,
        }
        temporary = self._folder / f"{digest}.{os.getpid()}.index.tmp"
        try:
            with temporary.open("w") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump(index, file)
                file.flush()
                os.fsync(file.fileno())
            _mark_used(temporary, created)
            temporary.rename(self._folder / f"{digest}.json")
        finally:
            temporary.unlink(missing_ok=True)

    def _evict(self) -> None:
        """Remove least recently used modules until the store fits its capacity, and temporaries nobody owns."""
        files = sorted(
            self._sizes()
        )  # by stat alone: to read every index takes long, and each compilation comes here
        excess = sum(size for _, size, _ in files) - self._capacity
        for _, size, path in files:
            if excess <= 0:
                break
            if _remove_unused(path):
                excess -= size
        for path in self._modules.glob("*/*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def _sizes(self) -> Iterator[tuple[float, int, Path]]:
        """When each module was last used, the bytes of its code, and where that is."""
        for path in self._modules.glob("*/*.json"):
            code = path.with_suffix(".cwasm")
            with suppress(FileNotFoundError):
                yield path.stat().st_mtime, code.stat().st_size, code

    def _remove(self, entry: Entry) -> bool:
        with self.writing():
            return _remove_unused(self._modules / entry.key / f"{entry.digest}.cwasm")

    def _sweep(self, known: set[tuple[str, str]]) -> None:
        """Remove files that belong to no known module, and what compilations left whose process was killed.

        What is being compiled is locked, and what is being published is in use.
        """
        for path in [*self._modules.glob("*/*.cwasm"), *self._modules.glob("*/*.json")]:
            if (path.parent.name, path.stem) not in known:
                _remove_unused(path.with_suffix(".cwasm"))
        left = list(self._modules.glob("*/*.tmp"))  # before the locks: what comes later belongs to somebody
        for path in self._modules.glob("*/*.lock"):
            _remove_unused(path)
        for path in left:
            if not path.with_name(f"{path.name.partition('.')[0]}.lock").exists():
                _delete(path)


def _own_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise Unavailable(
            f"cannot make the module store at {folder}: {error.strerror}; choose another with --root"
        ) from None
    if not stat.S_ISDIR(state.st_mode):
        raise FailedPrecondition(f"the module store needs a folder at {folder}, and something else is there")
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise FailedPrecondition(
            f"the module store at {folder} must belong to user {os.geteuid()} and be writable only by them; "
            f"it belongs to {state.st_uid} with mode {stat.S_IMODE(state.st_mode):o}"
        )


def _mark_used(index: Path, when: float) -> None:
    """Note a use, by the clock of time.time(): the one that files are stamped by is coarser and lags behind."""
    os.utime(index, (when, when))


def _state(state: os.stat_result) -> list[int]:
    return [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]


def _sha256(fd: int) -> str:
    with open(fd, "rb", closefd=False) as file:  # the descriptor is the caller's
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_same(path: Path, fd: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(fd))
    return False


def _remove_unused(path: Path) -> bool:
    """Remove compiled code with its index, or a lock, unless somebody holds it."""
    with ExitStack() as undo:
        try:
            fd = os.open(path, _READ)
            undo.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
        if path.suffix == ".cwasm":
            _delete(path.with_suffix(".json"))
        _delete(path)
        return True


def _delete(path: Path) -> None:
    """Remove whatever has this name, a folder too: what lies in the store's own folder is the store's."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path)


def _facts(index: dict[str, Any]) -> Facts:
    """What an index says of a module; raises ValueError, KeyError or TypeError for what publish() does not write."""
    facts = index["facts"]
    numbers = [facts["source_size"], *(facts["image"] or {}).values()]
    if not all(isinstance(number, int) and 0 <= number < 1 << 63 for number in numbers):
        raise ValueError("a size is no number of bytes")
    if not (isinstance(facts["source"], str) and isinstance(facts["compile_seconds"], float | int)):
        raise TypeError("a name or a time has another type")
    interface = None if facts["interface"] is None else Interface.from_json(facts["interface"])
    image = None if facts["image"] is None else Image(**facts["image"])
    read = {"kind": Kind(facts["kind"]), "spaces": Spaces.from_json(facts["spaces"])}
    return Facts(**{**facts, **read, "interface": interface, "image": image})


def _entry(index_path: Path) -> Entry | None:
    code_path = index_path.with_suffix(".cwasm")
    try:
        index = json.loads(index_path.read_bytes())
        return Entry(
            digest=index_path.stem,
            key=index_path.parent.name,
            facts=_facts(index),
            size=code_path.stat().st_size,
            created=index["created"],
            last_used=index_path.stat().st_mtime,
            in_use=_in_use(code_path),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _in_use(path: Path) -> bool:
    fd = os.open(path, _READ)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
