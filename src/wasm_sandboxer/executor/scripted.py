"""Guests whose processes run no Python: what child.py does, written down by the fork server as a script.

For those whose run gives no values to be shown: nearly all. What is out of the ordinary is left to child.py, and so
is what cannot be run at all, since it has the words to say why.
"""

import mmap
import os
import pickle
import signal
import stat
import sys

from wasm_sandboxer.engine import counting
from wasm_sandboxer.engine.protocol import Kind
from wasm_sandboxer.engine.shared_page import bound_in, claim_in
from wasm_sandboxer.engine.shared_pool import Share
from wasm_sandboxer.engine.store import Facts
from wasm_sandboxer.engine.wasmtime import scripted_component, scripted_module, scripting
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.engine.wasmtime.scripting import Ends
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.executor import assignment, words
from wasm_sandboxer.executor.assignment import Assignment
from wasm_sandboxer.executor.confinement import enter_bounds, give_up_the_rest
from wasm_sandboxer.executor.words import Word
from wasm_sandboxer.forking.mould import FIRST_DESCRIPTOR, Mould
from wasm_sandboxer.guest import Stdio
from wasm_sandboxer.linux import memory, privileges, syscall
from wasm_sandboxer.linux.namespace import CLONE_NEWNS
from wasm_sandboxer.linux.pipe import has_writer
from wasm_sandboxer.linux.script import NEGATIVE, NOT_NEGATIVE, Label, Script, exactly
from wasm_sandboxer.linux.syscall import address_of

_ANSWERS = FIRST_DESCRIPTOR  # where the child tells of its guest
_POOLS = 8  # the most that share a guest's memory: its container's, its pod's
_RIGHTS = mmap.PROT_READ | mmap.PROT_WRITE
_SHARED_THERE = mmap.MAP_SHARED | 0x10  # MAP_FIXED; asm-generic/mman-common.h
_NO_SIGNAL = 0x4000  # MSG_NOSIGNAL; linux/socket.h
_BASE, _LENGTH, _SECOND = 0, 8, 16  # of a struct iovec, by their offsets in bytes, and where the next one is


class ScriptedGuests:
    """Writes scripts and has children forked for them; one thread."""

    def __init__(self, *, separate: bool) -> None:
        """With `separate` each child is given mounts of its own first."""
        self._separate = separate
        self._script = Script()
        self._mould = Mould(self._script)
        # Where children map the pages of their pools: at one place, that a script can name.
        self._pages = memory.reserve(_POOLS * mmap.PAGESIZE)

    def start(self) -> None:
        """Have children be forked of this process as it is now."""
        self._mould.start()

    def fork(self, runtime: Runtime, argument: bytes, fds: tuple[int, ...], answers: int) -> int | None:
        """Fork a child that runs the guest and tells of it at `answers`; None for what is left to child.py.

        Raises OSError.
        """
        given = assignment.unpack(argument)
        if given.command is not None or given.guest.function is not None:
            return None
        assert given.program is not None  # or there would be a command
        _, facts, command = pickle.loads(given.program)  # noqa: S301  # as in unpack_program
        try:
            if not _can_run(facts, command, given, dict(zip(given.doors, fds, strict=True))):
                return None
            self._write(runtime, given, facts, command)
        except Exception as error:  # noqa: BLE001  # one guest's must not end this process, and all others with it
            self._script.wipe()
            if not isinstance(error, WasmSandboxerError | ValueError):
                print(f"fork server: no script can be written: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
            return None
        return self._mould.fork([answers, *fds])

    def _write(self, runtime: Runtime, given: Assignment, facts: Facts, command: str | None) -> None:
        script, guest = self._script, given.guest
        doors = {name: number for number, name in enumerate(given.doors, _ANSWERS + 1)}  # as the child will have them
        stdin, stdout, stderr = (number if str(number) in doors else None for number in range(3))
        stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr, terminals=given.terminals)
        script.begin()
        telling = _Telling(script, scripting.place_of_refusal(runtime), explains=stderr is not None)
        self._be_a_child()
        enter_bounds(script, given.enclosure, doors)
        loaded = scripting.load(script, runtime, facts.kind, f"/proc/self/fd/{doors['code']}", telling.ends)
        for number in (stdin, stdout, stderr):
            if number is not None:
                script.call(address_of("dup2"), doors[str(number)], number, check=NOT_NEGATIVE, what="dup2")
        script.call(address_of("prctl"), syscall.PR_SET_NAME, script.data(syscall.named(given.name)), 0, 0, 0)
        assert given.share is not None  # by _can_run()
        pool = self._map_pools(given.share, doors)
        scripting.charge(script, runtime, pool, facts, guest, telling.ends)
        # Before the filters, which may refuse that.
        kept = ["network", "root", *(["code"] if facts.image is not None else [])]
        script.close_others(_ANSWERS, *(doors[name] for name in kept if name in doors))
        give_up_the_rest(script, given.enclosure, doors, os.getpid())
        if command is not None:
            scripted_component.run(script, runtime, loaded, facts, command, guest, stdio, telling.ready, telling.ends)
        else:
            scripted_module.show_image(script, runtime, facts, doors["code"])
            scripted_module.run(script, runtime, loaded, facts, guest, stdio, telling.ready, telling.ends)
        telling.finish(pool)
        script.finish()

    def _be_a_child(self) -> None:
        """What the fork server's other children do before they are asked for anything."""
        script = self._script
        privileges.end_with(script, os.getpid())
        script.call(address_of("setsid"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            script.call(address_of("signal"), number.value, 0)  # SIG_DFL
        if self._separate:
            script.call(address_of("unshare"), CLONE_NEWNS, check=NOT_NEGATIVE, what="unshare")

    def _map_pools(self, share: Share, doors: dict[str, int]) -> int:
        """Map the pages that the guest's pools are counted in, and lay out its own; the address of that."""
        script = self._script
        above = 0
        page = 0
        for number in reversed(range(len(share.names))):
            page = self._pages + number * mmap.PAGESIZE
            how = page, mmap.PAGESIZE, _RIGHTS, _SHARED_THERE, doors[f"pool{number}"], 0
            script.call(address_of("mmap"), *how, check=exactly(page), what="map a pool")
            above = counting.lay_out(script, above, count=page, bound=bound_in(page))
        return counting.lay_out(script, counting.lay_out(script, above, count=claim_in(page, share.claim)))


class _Telling:
    """What the child says, and the ways to it."""

    def __init__(self, script: Script, refused: int, *, explains: bool) -> None:
        """With `explains` the guest's stderr is told why it trapped, in the words that are sent back.

        `refused` is where it is written down that its pools had no room.
        """
        self._script = script
        self._explains = explains
        self.ends = Ends(code=script.room(8), report=script.room(16), refused=refused)

    def ready(self) -> None:
        """Say that the guest begins."""
        script = self._script
        script.call(address_of("send"), _ANSWERS, script.data(words.word(Word.READY)), words.WORD_SIZE, _NO_SIGNAL)

    def finish(self, pool: int) -> None:
        """Write down what is said at each end; the guest's memory is counted in the pool at this address."""
        script, ends = self._script, self.ends
        used, denied = pool + counting.OWN_COUNT + counting.USED, pool + counting.DENIED
        script.place(ends.exited)
        self._end(Word.EXITED, ends.code, used)
        script.place(ends.trapped)
        report = ends.report + scripting.REPORT_PLACE, ends.report + scripting.REPORT_LENGTH
        self._end(Word.TRAPPED, 0, used, denied, text=report)
        script.place(ends.unmade)
        self._end(Word.UNMADE, 0, ends.refused, denied, text=report)
        for label, word in ((ends.folder, Word.NO_FOLDER), (script.failing, Word.NOT_SET_UP)):
            script.place(label)
            script.keep_errno()
            self._end(word, script.errno, text=(script.failed, script.failed + 8))

    def _end(self, word: Word, *parts: int, text: tuple[int, int] | None = None) -> None:
        """Say a word, its parts copied from these addresses or left 0, with a text by its place and length; end."""
        script, copy = self._script, address_of("memcpy")
        message = script.data(words.word(word))
        for offset, size, address in zip(words.WORD_PARTS, words.WORD_SIZES, parts, strict=False):
            if address:
                script.call(copy, message + offset, address, size)
        said = Label()
        if text is not None:
            vectors = script.words(message, words.WORD_SIZE, 0, 0)
            for offset, address in zip((_SECOND + _BASE, _SECOND + _LENGTH), text, strict=True):
                script.call(copy, vectors + offset, address, 8)
            self._say(vectors, said)
            # It may have been too long.
            script.call(copy, vectors + _SECOND + _LENGTH, script.words(words.MOST_TEXT), 8)
            self._say(vectors, said)
            # Or the spec's filter refuses that call.
        script.call(address_of("send"), _ANSWERS, message, words.WORD_SIZE, _NO_SIGNAL)
        script.place(said)
        if word is Word.TRAPPED and self._explains:
            place = script.spare()
            size = script.call(address_of("recv"), _ANSWERS, place, words.MOST_EXPLAINED, 0, check=NOT_NEGATIVE)
            script.call(address_of("write"), 2, place, size)
        script.call(address_of("_exit"), 0)

    def _say(self, vectors: int, said: Label) -> None:
        """Send a message of two parts; `said` is where to go on if that worked."""
        script = self._script
        header = script.words(0, 0, vectors, 2, 0, 0, 0)  # struct msghdr
        script.call(address_of("sendmsg"), _ANSWERS, header, _NO_SIGNAL, check=NEGATIVE, otherwise=said)


def _can_run(facts: Facts, command: str | None, given: Assignment, doors: dict[str, int]) -> bool:
    """Whether a script can run it; raises ModuleError if nothing can."""
    if given.share is None or len(given.share.names) > _POOLS or len(given.guest.preopens) > given.guest.limits.files:
        return False
    if facts.kind is Kind.COMPONENT:
        return command is not None and _is_settled(doors)
    return scripted_module.can_run(facts, given.guest)


def _is_settled(doors: dict[str, int]) -> bool:
    """Whether the guest's input can be read as it is: see settle_input."""
    fd = doors.get("0")
    if fd is None or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return True
    if not has_writer(fd):
        return False
    os.set_blocking(fd, True)
    return True
