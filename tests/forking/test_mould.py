"""The mould: children that the fork server has without forking itself."""

import signal
import subprocess
import sys

from tests.support.proc import wait_until_gone

PARENT = """
import os, signal, sys
from wasm_sandboxer.forking.mould import FIRST_DESCRIPTOR, Mould
from wasm_sandboxer.linux.script import NOT_NEGATIVE, Script, equal
from wasm_sandboxer.linux.syscall import address_of

script = Script()
mould = Mould(script)
tell, told = os.pipe()

def child(text):
    script.begin()
    script.call(address_of("getppid"), check=equal(os.getpid()), what="parent")
    script.call(address_of("write"), FIRST_DESCRIPTOR, script.text(text), len(text))
    script.call(address_of("fcntl"), FIRST_DESCRIPTOR + 1, 1, check=equal(0xFFFFFFFF), what="no other descriptor")
    script.call(address_of("_exit"), 7)
    script.place(script.failing)
    script.call(address_of("_exit"), 1)
    script.finish()
    pid = mould.fork([told])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def kill(pid):
    os.kill(pid, signal.SIGKILL)
    while ") Z " not in open(f"/proc/{pid}/stat").read():
        os.sched_yield()

def moulds():
    found = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return [int(pid) for pid in found if "wasm-mould" in open(f"/proc/{pid}/comm").read()]
"""


def run(text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PARENT + text], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_children_are_the_callers_and_have_what_they_are_given() -> None:
    assert run(
        "print([child(f'{n} ') for n in range(50)], os.read(tell, 1000).split() == [b'%d' % n for n in range(50)])"
    ) == (f"{[7] * 50} True\n")


def test_one_that_has_died_is_replaced() -> None:
    text = """
print(child("a"))
for _ in range(3):
    kill(moulds()[0])
    print(child("b"))
print(os.read(tell, 100), len(moulds()))
"""
    assert run(text).split("\n") == ["7", "7", "7", "7", "b'abbb' 1", ""]


def test_it_ends_with_whoever_made_it() -> None:
    text = """
child("a")
print(moulds()[0])
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", PARENT + text], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    wait_until_gone(int(done.stdout))


def test_nothing_of_a_script_is_left_in_it() -> None:
    """The next child is another guest's, and may look for what this one was given."""
    text = """
import ctypes
child("a secret of the first")
script.begin()
calls, data = script.places()
# Read by the child, behind what it was itself given: all of it must be 0.
script.call(address_of("write"), FIRST_DESCRIPTOR, data[0] + 4096, 8192)
script.call(address_of("write"), FIRST_DESCRIPTOR, calls[0] + 4096, 8192)
script.call(address_of("_exit"), 0)
script.finish()
os.read(tell, 10000)
os.waitpid(mould.fork([told]), 0)
print(set(os.read(tell, 20000)))
"""
    assert run(text.replace('child("a secret of the first")', 'child("a secret of the first" * 400)')) == "{0}\n"
