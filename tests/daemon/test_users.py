"""Who a guest is: the spec's user in a process, root on a thread, which the log says. No containerd."""

import json
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Message

from tests.support.bundles import bind
from tests.support.rpc import Client
from wasm_sandboxer.api import typeurl

ISOLATION = "wasm-sandboxer.io/isolation"
TOLD = "asks for user 1000, but its guest is on a thread"


def as_user(uid: int, isolation: str = "thread", **more: Any) -> dict[str, Any]:
    return {"process": {"user": {"uid": uid, "gid": uid}, **more}, "annotations": {ISOLATION: isolation}}


@pytest.mark.parametrize(("isolation", "read", "owner"), [("thread", 0, 0), ("process", 1, 1000)])
def test_a_thread_has_roots_files_and_a_process_its_users(ttrpc, bundle, ident, tmp_path, isolation, read, owner):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "secret").write_text("root's")
    (volume / "secret").chmod(0o400)
    volume.chmod(0o777)

    def run(number, *words):
        made = bundle("files", *words, name=f"b{number}", mounts=[bind(volume, "/data")], **as_user(1000, isolation))
        name = f"{ident}-{number}"
        ttrpc.Create(id=name, bundle=str(made.folder), **made.streams())
        ttrpc.Start(id=name)
        code = ttrpc.Wait(id=name).exit_status
        ttrpc.Delete(id=name)
        return code

    assert run(0, "read", "/data/secret") == read
    assert run(1, "write", "/data/new", "x") == 0
    assert (volume / "new").stat().st_uid == owner


def test_a_user_that_a_thread_cannot_be_is_told_once_for_a_container(own_daemon, bundle, ident):
    capabilities = {"capabilities": {"bounding": ["CAP_CHOWN"]}}
    with own_daemon(log_level="info") as daemon, Client(daemon.task_listen) as task:
        for number, settings in enumerate([as_user(1000), as_user(1000, "process"), as_user(0, **capabilities)]):
            made = bundle("sleep", "forever", name=f"b{number}", **settings)
            made.add("hello")
            name = f"{ident}-{number}"
            task.Create(id=name, bundle=str(made.folder), **made.streams())
            task.Start(id=name)
            spec = {"args": ["/hello.wasm"], "cwd": "/", "user": {"uid": 1000, "gid": 1000}}
            message = Message(type_url=typeurl.PROCESS, value=json.dumps(spec).encode())
            task.Exec(id=name, exec_id="e", spec=message, **made.streams("e"))
            task.Start(id=name, exec_id="e")
            assert task.Wait(id=name, exec_id="e").exit_status == 0
            task.Kill(id=name, signal=9, all=True)
            task.Wait(id=name)
            task.Delete(id=name)
        lines = [line for line in daemon.log.splitlines() if " asks for " in line]
    assert len(lines) == 1, lines
    assert f"container {ident}-0 {TOLD}" in lines[0]
