"""HOME of a guest whose spec does not name it. No containerd."""

import json
import os

import pytest
from google.protobuf.any_pb2 import Any as Message

from wasm_sandboxer.api import typeurl

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
web:x:33:33:www,,,:/srv/wëb:/usr/sbin/nologin
again:x:33:33::/elsewhere:
short:x:44:44::/short
shorter:x:55:55:
empty:x:66:66:::
"""
ISOLATION = "wasm-sandboxer.io/isolation"


@pytest.fixture
def home(ttrpc, ident, bundle):
    """Runs a guest that writes its variables: its HOME. `image` makes things in its root file system before."""
    count = 0

    def of(uid=0, image=None, *, isolation="thread", **settings):
        nonlocal count
        count += 1
        user = {"user": {"uid": uid, "gid": 0}}
        made = bundle("args", name=f"b{count}", process=user, annotations={ISOLATION: isolation}, **settings)
        (made.root / "etc").mkdir()
        (image or (lambda root: (root / "etc/passwd").write_text(PASSWD)))(made.root)
        ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
        ttrpc.Start(id=ident)
        lines = made.read().decode().splitlines()
        ttrpc.Wait(id=ident)
        ttrpc.Delete(id=ident)
        return dict(line.split("=", 1) for line in lines)["HOME"]

    return of


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize(
    ("uid", "found"), [(0, "/root"), (33, "/srv/wëb"), (44, "/short"), (55, "/"), (66, ""), (1000, "/")]
)
def test_home_is_the_users_in_the_containers_passwd(home, isolation, uid, found):
    assert home(uid, isolation=isolation) == found


def test_home_of_the_spec_goes_first_unless_it_is_empty(home):
    assert home(env={"HOME": "/mine"}) == "/mine"
    assert home(env={"HOME": ""}) == "/root"


def test_no_passwd_leads_out_of_the_root_or_holds_anybody_up(home, tmp_path):
    (tmp_path / "passwd").write_text("root:x:0:0::/stolen:\n")

    def link(target):
        return lambda root: (root / "etc/passwd").symlink_to(target)

    def inside(root):
        (root / "passwd").write_text("root:x:0:0::/inside:\n")
        (root / "etc/passwd").symlink_to("/passwd")

    assert home(image=lambda _: None) == "/"
    assert home(image=link(tmp_path / "passwd")) == "/"
    assert home(image=link("../../../../../../passwd")) == "/"
    assert home(image=inside) == "/inside"
    assert home(image=lambda root: os.mkfifo(root / "etc/passwd")) == "/"
    assert home(image=lambda root: (root / "etc/passwd").mkdir()) == "/"


def test_of_a_passwd_without_end_the_beginning_is_read(home):
    user = "root:x:0:0::/root:\n"
    assert home(image=lambda root: (root / "etc/passwd").write_text(user + "#" * (1 << 20))) == "/root"
    assert home(image=lambda root: (root / "etc/passwd").write_text("#" * (1 << 20) + f"\n{user}")) == "/"
    cut = "#" * ((1 << 16) - len(user)) + "\n" + user  # of whose last line all but the end is read
    assert home(image=lambda root: (root / "etc/passwd").write_text(cut)) == "/"
    assert home(image=lambda root: (root / "etc/passwd").write_bytes(b"root:x:0:0::/a\0b:\n")) == "/"


def test_an_exec_has_the_home_of_its_own_user(ttrpc, ident, bundle):
    made = bundle("sleep", "forever")
    made.add("args")
    (made.root / "etc").mkdir()
    (made.root / "etc/passwd").write_text(PASSWD)
    ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
    ttrpc.Start(id=ident)
    for uid, found in ((0, "/root"), (33, "/srv/wëb")):
        spec = {"args": ["/args.wasm"], "cwd": "/", "user": {"uid": uid, "gid": 0}}
        message = Message(type_url=typeurl.PROCESS, value=json.dumps(spec).encode())
        ttrpc.Exec(id=ident, exec_id=f"e{uid}", spec=message, **made.streams(f"e{uid}"))
        ttrpc.Start(id=ident, exec_id=f"e{uid}")
        assert f"HOME={found}\n" in made.read(f"e{uid}stdout").decode()
        ttrpc.Wait(id=ident, exec_id=f"e{uid}")
    ttrpc.Kill(id=ident, signal=9, all=True)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)
