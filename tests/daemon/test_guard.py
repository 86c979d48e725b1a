"""What native code in a guest's process can reach: a WasmEdge that is none, as one is that its guest broke out of."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon
from tests.support.rpc import Client
from wasm_sandboxer.linux import guard, seccomp
from wasm_sandboxer.rpc.ttrpc import RpcError

pytestmark = pytest.mark.xdist_group("wasmedge")
PERL = shutil.which("perl") or "/usr/bin/perl"  # which every Debian has, in perl-base
# Prints what an attempt came to; `perl -e SCRIPT ARGUMENT…`.
ATTEMPTS = {
    "up": 'my $p = "/proc/self/fd/3" . "/.." x 20; print -e "$p/$ARGV[0]" ? "reached" : "no";',
    "rewrite": 'print open(F, "+<", "/proc/self/fd/4") && defined syswrite(F, "x") ? "written" : "no: $!";',
    "others": 'opendir(my $d, "/proc"); print join " ", sort grep { /^\\d+$/ && $_ != $$ } readdir $d;',
    "signal": 'print kill(0, $ARGV[0]) ? "may" : "no: $!";',
    "itself": 'my $n; $SIG{USR1} = sub { $n = 1 }; syscall(234, $$ + 0, $$ + 0, 10); print $n ? "heard" : "no";',
    "mount": 'my @a = ("none", "/tmp", "tmpfs"); print syscall(165, @a, 0, 0) == 0 ? "mounted" : "no: $!";',
    "unshare": 'print syscall(272, 0x10000000) == 0 ? "unshared" : "no: $!";',
    "clone": 'my $p = syscall(56, 0x10000000 | 17, 0, 0, 0, 0); exit if $p == 0; print $p > 0 ? "cloned" : "no: $!";',
    "fork": "my $p = fork; exit 7 if $p == 0; waitpid $p, 0; print $? >> 8;",
}


@pytest.fixture(scope="module")
def daemon(short_folder: Path, store_root: Path, wasmedge: Path) -> Iterator[Daemon]:
    """One whose WasmEdge is the real one, but for a guest that is called "attempt"."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: the daemon mounts, which needs root")
    folder = short_folder / "daemon"
    folder.mkdir()
    unpacked = wasmedge.read_bytes()[:2] == b"#!"  # which starts what lies beside it: only its folder is shown
    fake = wasmedge.with_name(f"attempt-{os.getpid()}") if unpacked else folder / "wasmedge"
    fake.write_text(
        "#!/bin/sh\n"
        'case "$*" in *" --dir"*attempt.wasm*)\n'
        '    while [ "${1##*/}" != attempt.wasm ]; do shift; done\n'
        "    shift\n"
        f'    exec {PERL} -e "$@" ;;\n'
        "esac\n"
        f'exec {wasmedge} "$@"\n'
    )
    fake.chmod(0o755)
    settings = f'shutdown_timeout = 2.0\nwasmedge = "{fake}"\nengine = "wasmedge"'
    try:
        with Daemon(folder, store_root, settings=settings) as running:
            yield running
    finally:
        fake.unlink()


@pytest.fixture
def attempt(ttrpc: Client, bundle: Callable[..., Bundle], ident: str) -> Iterator[Callable[..., str]]:
    """Does one of the attempts as a container's process: what it printed."""
    made: list[str] = []

    def run(what: str, *arguments: object) -> str:
        name = f"{ident}-{len(made)}"
        folder = bundle("hello", name=name)
        shutil.move(folder.root / "hello.wasm", folder.root / "attempt.wasm")
        folder.configure("/attempt.wasm", ATTEMPTS[what], *map(str, arguments))
        ttrpc.Create(id=name, bundle=str(folder.folder), **folder.streams())
        made.append(name)
        ttrpc.Start(id=name)
        said = folder.read("stdout") + folder.read("stderr")
        ttrpc.Wait(id=name)
        return said.decode()

    yield run
    for name in made:
        with suppress(RpcError):
            ttrpc.Kill(id=name, signal=9)
        ttrpc.Wait(id=name)
        ttrpc.Delete(id=name)


def test_no_descriptor_leads_out_of_its_view(attempt: Callable[..., str]) -> None:
    assert Path("/etc/passwd").exists()
    assert attempt("up", "etc/passwd") == "no"


def test_the_code_of_others_cannot_be_written_to(attempt: Callable[..., str]) -> None:
    assert attempt("rewrite") == "no: Read-only file system"


def test_it_sees_no_process_of_the_hosts(attempt: Callable[..., str]) -> None:
    assert attempt("others") == ""


def test_it_reaches_no_other_process(attempt: Callable[..., str], daemon: Daemon) -> None:
    assert seccomp.is_available(), "libseccomp is missing here: apt-get install libseccomp2"
    with subprocess.Popen(["sleep", "60"]) as other:
        assert attempt("signal", other.pid).startswith("no: Operation not permitted")
        other.kill()
    assert attempt("signal", daemon.pid).startswith("no: ")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="NOT RUN: knows x86-64's numbers of system calls")
@pytest.mark.parametrize("what", ["mount", "unshare", "clone"])
def test_it_makes_no_namespace_and_no_mount(attempt: Callable[..., str], what: str) -> None:
    assert attempt(what) == "no: Operation not permitted"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="NOT RUN: knows x86-64's numbers of system calls")
def test_it_may_do_what_engines_do(attempt: Callable[..., str]) -> None:
    assert attempt("fork") == "7"
    assert attempt("itself") == "heard"


def test_the_filter_knows_its_own_process() -> None:
    """Installed in a Python of its own, which then can signal itself and nobody else."""
    script = (
        "import os, signal, threading\n"
        "from wasm_sandboxer.linux import guard, privileges\n"
        "privileges._prctl(privileges._PR_SET_NO_NEW_PRIVS, 1)\n"
        "privileges.install_filter(guard.of_this_process(guard.template()))\n"
        "heard = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))\n"
        "signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)\n"
        "assert heard\n"
        "thread = threading.Thread(target=print, args=('a thread',))\n"
        "thread.start()\n"
        "thread.join()\n"
        "try:\n"
        "    os.kill(os.getppid(), 0)\n"
        "except PermissionError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.splitlines()) == ["a thread", "refused"]


def test_the_filter_is_one_for_this_machine() -> None:
    instructions = guard.template()
    assert len(instructions) % 8 == 0
    assert guard.of_this_process(instructions) != instructions
