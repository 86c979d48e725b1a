"""Images through the real containerd: their layers, and those that mean harm."""

import pytest

from testing import oci
from testing.cri import Mount
from tests.support.cli import example
from tests.support.modules import EMPTY, binary

pytestmark = pytest.mark.xdist_group("containerd")

SECRET = "what no guest may see"
FILES = {"files.wasm": example("files").read_bytes()}


@pytest.fixture
def outside(tmp_path):
    """A folder of the host that no guest was given."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text(SECRET)
    (folder / "module.wasm").write_bytes(binary(EMPTY))
    return folder


def listing(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.mark.parametrize("count", [1, 2, 70])
def test_layers_lie_over_each_other(node, run, output, count):
    """Seventy layers make overlay options of several pages: more than mount(2) takes as they are."""
    layers = [{f"file{number}": f"layer {number}", "same": str(number)} for number in range(count)]
    image = node.image({**FILES, **layers[0]}, *layers[1:])
    assert output(run("/files.wasm", "read", "/same", image=image)) == (0, str(count - 1))
    assert output(run("/files.wasm", "read", "/file0", image=image)) == (0, "layer 0")
    assert output(run("/files.wasm", "read", f"/file{count - 1}", image=image)) == (0, f"layer {count - 1}")


def test_whiteouts_hide_what_lies_below(node, run, output):
    image = node.image(
        {**FILES, "gone": "x", "folder/gone": "x", "folder/stays": "x", "emptied/gone": "x"},
        {".wh.gone": oci.WHITEOUT, "folder/.wh.gone": oci.WHITEOUT, "emptied/.wh..wh..opq": oci.WHITEOUT,
         "emptied/new": "x"},
    )  # fmt: skip
    assert output(run("/files.wasm", "read", "/gone", image=image))[0] == 1
    assert output(run("/files.wasm", "ls", "/folder", image=image))[1] == "stays\n"
    assert output(run("/files.wasm", "ls", "/emptied", image=image))[1] == "new\n"
    assert "gone" not in output(run("/files.wasm", "ls", "/", image=image))[1]


def test_links_within_an_image_work(node, run, output):
    image = node.image(
        {
            "bin/files": FILES["files.wasm"],
            "bin/hard": oci.Hardlink("bin/files"),
            "bin/soft": oci.Symlink("files"),
            "absolute": oci.Symlink("/bin/files"),
            "up": oci.Symlink("../../../bin/files"),
            "usr": oci.Symlink("/"),
        }
    )
    for command in ("/bin/files", "/bin/hard", "/bin/soft", "/absolute", "/up", "/usr/bin/soft", "/usr/usr/absolute"):
        assert output(run(command, "ls", "/bin", image=image)) == (0, "files\nhard\nsoft@\n")


def test_no_module_is_taken_from_outside(node, cri, pod, fails, outside):
    image = node.image(
        {
            "absolute": oci.Symlink(str(outside / "module.wasm")),
            "relative": oci.Symlink(f"../../../../../../../../../../../..{outside}/module.wasm"),
            "folder": oci.Symlink(str(outside)),
            "loop": oci.Symlink("loop"),
            "fifo": oci.Device(),
            "null": oci.Device(1, 3),
            "proc": oci.Symlink("/proc/self/root"),
        }
    )
    for number, command in enumerate(
        ["/absolute", "/relative", "/folder/module.wasm", "/loop", "/fifo", "/null", str(outside / "module.wasm"),
         f"/proc{outside}/module.wasm", "../../../../../../../../.." + str(outside / "module.wasm"), "/"]
    ):  # fmt: skip
        container = cri.create(pod, image, command=[command], name=f"c{number}")
        assert fails(cri.start, container)
    assert node.task_mounts() == []


def test_nothing_outside_is_read_or_changed(node, run, output, cri, outside):
    before = listing(outside)
    image = node.image(
        {
            **FILES,
            "absolute": oci.Symlink(str(outside)),
            "relative": oci.Symlink(f"../../../../../../../../../../../../..{outside}"),
            "file": oci.Symlink(str(outside / "secret")),
            "passwd": oci.Symlink("/etc/passwd"),
            "loop": oci.Symlink("loop"),
        }
    )
    holder = run("/files.wasm", "ls", "/", image=image)
    output(holder)
    for verb, *rest in (("read",), ("write", "pwned"), ("rm",), ("ls",)):
        for path in (
            "/absolute/secret", "/relative/secret", "/file", "/passwd", "/loop", f"../../../../../..{outside}/secret",
        ):  # fmt: skip
            container = run("/files.wasm", verb, path, *rest, image=image)
            _, text = output(container, both=True)
            assert SECRET not in text
            assert "root:" not in text
            cri.remove(container)
    assert listing(outside) == before


def test_volumes_stay_inside_an_image_of_links(node, run, output, outside, tmp_path):
    """Their destinations lie behind links that lead to the host's files."""
    before = listing(outside)
    (tmp_path / "file").write_text("volume")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("volume")
    image = node.image(
        {
            **FILES,
            "etc": oci.Symlink(str(outside)),
            "up": oci.Symlink(f"../../../../../../../..{outside}"),
            "dangling": oci.Symlink(f"{outside}/none"),
        }
    )
    volumes = [
        Mount(source=tmp_path / "file", target="/etc/config"),
        Mount(source=tmp_path / "folder", target="/up/deep"),
        Mount(source=tmp_path / "file", target="/dangling"),
        Mount(source=tmp_path / "folder", target="/../../climbs"),
    ]
    container = run("/files.wasm", "read", "/up/deep/inside", image=image, mounts=volumes)
    assert not [point for point in node.daemon.mounts(tmp_path) if point.startswith(str(outside))]
    assert output(container) == (0, "volume")
    assert output(run("/files.wasm", "read", "/climbs/inside", image=image, mounts=volumes)) == (0, "volume")
    assert listing(outside) == before


def test_a_loop_of_links_as_a_destination_is_refused(node, cri, pod, fails, tmp_path):
    image = node.image({**FILES, "loop": oci.Symlink("/loop")})
    container = cri.create(pod, image, command=["/files.wasm"], mounts=[Mount(source=tmp_path, target="/loop/x")])
    assert "/loop/x" in fails(cri.start, container)
    assert node.task_mounts() == []


def test_a_device_of_an_image_cannot_be_opened(node, run, output, cri):
    image = node.image({**FILES, "null": oci.Device(1, 3), "zero": oci.Device(1, 5)})
    for command in (["write", "/null", "x"], ["append", "/null", "x"], ["read", "/null"]):
        container = run("/files.wasm", *command, image=image)
        assert output(container)[0] == 1
        assert b"/null" in cri.output(container, "stderr")


def test_names_that_are_no_text_do_no_harm(node, run, output):
    image = node.image({**FILES, "with space": "1", "ünï": "2", "new\nline": "3"})
    code, text = output(run("/files.wasm", "ls", "/", image=image))
    assert code == 0
    assert "with space" in text
    assert output(run("/files.wasm", "read", "/ünï", image=image))[1] == "2"
