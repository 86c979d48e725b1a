import pytest

from testing import oci

pytestmark = pytest.mark.xdist_group("containerd")

LAYERS = [
    {
        "data/kept": "below",
        "data/hidden": b"below",
        "data/replaced": "below",
        "script": oci.File(data=b"#!/bin/sh\necho script\n", mode=0o755),
    },
    {
        "data/.wh.hidden": oci.WHITEOUT,
        "data/replaced": "above",
        "data/link": oci.Symlink("/data/kept"),
        "data/second": oci.Hardlink("data/replaced"),
        "tmp": oci.Dir(mode=0o1777, uid=12),
        "pipe": oci.Device(),
    },
]
CHECK = """
cd /data
echo $(cat kept replaced link second) *
[ -d /tmp ] && [ -p /pipe ] && /script
"""


def test_equal_input_makes_an_equal_image(tmp_path):
    one, two = (oci.build(tmp_path / name, "localhost/same:1", LAYERS) for name in ("one.tar", "two.tar"))
    assert one.digest == two.digest
    assert one.archive.read_bytes() == two.archive.read_bytes()


@pytest.mark.parametrize(("compress", "index"), [(False, True), (True, False)])
def test_layers_come_together_in_a_container(containerd, pod, tmp_path, compress, index):
    cri = containerd.cri
    layers = [oci.host_programs("/bin/sh", "/bin/cat"), *LAYERS]
    image = oci.build(
        tmp_path / "image.tar",
        f"localhost/layers:{compress}-{index}".lower(),
        layers,
        compress=compress,
        index=index,
        entrypoint=["/bin/sh", "-c"],
        cmd=[CHECK],
        env={"GREETING": "hello"},
        workdir="/data",
    )
    containerd.import_image(image)
    container = cri.run(pod, image.reference)
    assert cri.wait_exit(container).exit_code == 0
    assert cri.output(container).splitlines() == [
        b"belowabovebelowabove kept link replaced second",
        b"script",
    ]
    spec = cri.info(container)["runtimeSpec"]["process"]
    assert "GREETING=hello" in spec["env"]
    assert spec["cwd"] == "/data"


def test_a_single_manifest_for_wasip1_is_taken(containerd, cri, tmp_path):
    image = oci.build(
        tmp_path / "image.tar",
        "localhost/wasip1:1",
        [{"main.wasm": b"\0asm\1\0\0\0"}],
        platform="wasip1/wasm",
        entrypoint=["/main.wasm"],
    )
    containerd.import_image(image)
    assert cri.image(image.reference).id == image.config_digest


def test_a_wasm_artifact_is_taken(containerd, cri, tmp_path):
    image = oci.artifact(tmp_path / "image.tar", "localhost/artifact:1", b"\0asm\1\0\0\0")
    containerd.import_image(image)
    assert cri.image(image.reference).id == image.config_digest
