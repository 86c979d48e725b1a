"""Fixtures of the harness's own tests: a real containerd with runc, to show that the harness itself works."""

import os

import pytest

from testing import oci
from testing.containerd import Containerd, log_sections

SHELL = "localhost/shell:1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show the end of containerd's log with a failure."""
    report = yield
    if report.failed:
        report.sections += log_sections()
    return report


@pytest.fixture(scope="session")
def root():
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: containerd needs root")


@pytest.fixture(scope="package")
def shell(root, tmp_path_factory):
    """An image with a shell and a few programs of this machine."""
    layer = dict(oci.host_programs("/bin/sh", "/bin/cat", "/bin/sleep", "/bin/stty"))
    layer["tmp"] = oci.Dir(mode=0o1777)
    archive = tmp_path_factory.mktemp("images") / "shell.tar"
    return oci.build(archive, SHELL, [layer], cmd=["/bin/sh"], env={"PATH": "/bin:/usr/bin"})


@pytest.fixture(scope="package")
def containerd(root, shell):
    with Containerd(runc=True, log_level="debug") as running:
        running.import_image(shell)
        yield running


@pytest.fixture
def cri(containerd):
    return containerd.cri


@pytest.fixture
def pod(cri):
    pod = cri.run_pod(handler="runc")
    yield pod
    cri.discard(pod)
