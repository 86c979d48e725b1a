import hashlib
import subprocess
import textwrap
from pathlib import Path

import pytest

from testing import fetch, mirrors, packages
from testing.mirrors import Mirror

pytestmark = pytest.mark.xdist_group("containerd")


@pytest.fixture
def no_override(monkeypatch):
    monkeypatch.delenv(fetch.OVERRIDE, raising=False)


@pytest.fixture
def mirror(tmp_path, monkeypatch, no_override):
    """A mirror in a folder, with what is to be its containerd in each suite; and a cache of its own."""
    monkeypatch.setattr(packages, "CACHE", tmp_path / "cache")
    archive = tmp_path / "mirror"
    monkeypatch.setattr(packages, "debian_mirrors", lambda: [Mirror(uris=f"file:{archive}", trusted="yes")])

    def publish(suite, version):
        package = tmp_path / f"package-{suite}"
        (package / "DEBIAN").mkdir(parents=True)
        (package / "DEBIAN/control").write_text(
            f"Package: containerd\nVersion: {version}\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        )
        program = package / "usr/bin/containerd"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho containerd somewhere {version} revision\n")
        program.chmod(0o755)
        deb = archive / f"containerd_{version}_all.deb"
        deb.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "-b", package, deb], check=True, capture_output=True)
        architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
        index = archive / "dists" / suite / "main" / f"binary-{architecture}"
        index.mkdir(parents=True)
        control = (package / "DEBIAN/control").read_text()
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        described = f"{control}Filename: {deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n\n"
        (index / "Packages").write_text(described)
        release = f"Suite: {suite}\nComponents: main\nArchitectures: {architecture}\n"
        (archive / "dists" / suite / "Release").write_text(release)

    return publish


def test_a_fetched_containerd_is_new_enough_and_complete(no_override):
    binaries = fetch.containerd()
    assert binaries.version >= fetch.OLDEST
    for name in ("containerd", "ctr", "containerd-shim-runc-v2"):
        assert (binaries.folder / name).exists()


def test_what_has_been_fetched_is_not_fetched_again(mirror, monkeypatch):
    mirror("testing", "2.1.5")
    assert fetch.containerd().version == (2, 1, 5)
    monkeypatch.setattr(packages, "run", lambda *_: pytest.fail("it runs something"))
    assert fetch.containerd().version == (2, 1, 5)


def test_fetching_touches_nothing_of_the_machine(mirror):
    def state():
        folders = ("/var/lib/apt", "/var/cache/apt", "/var/lib/dpkg")
        files = [path for folder in folders for path in Path(folder).rglob("*")]
        return {path: path.lstat().st_mtime_ns for path in files}

    mirror("testing", "2.1.5")
    before = state()
    fetch.containerd()
    assert state() == before


def test_a_suite_with_too_old_a_containerd_is_passed_over(mirror):
    mirror("testing", "1.7.24")
    mirror("unstable", "2.2.0")
    assert fetch.containerd().version == (2, 2, 0)


def test_it_says_what_is_wrong_with_every_suite(mirror):
    mirror("testing", "1.7.24")
    with pytest.raises(packages.FetchError, match=r"(?s)1\.7\.24 is too old.*unstable at file:.*" + fetch.OVERRIDE):
        fetch.containerd()


def test_a_machine_without_apt_is_told_the_way_out(tmp_path, monkeypatch, no_override):
    monkeypatch.setattr(packages, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(packages.FetchError, match=f"no apt-get.*{fetch.OVERRIDE}"):
        fetch.containerd()


def test_a_folder_of_binaries_can_be_named_instead(tmp_path, monkeypatch):
    (tmp_path / "containerd").write_text("#!/bin/sh\necho containerd x v2.3.1 y\n")
    (tmp_path / "containerd").chmod(0o755)
    monkeypatch.setenv(fetch.OVERRIDE, str(tmp_path))
    assert fetch.containerd() == fetch.Binaries(folder=tmp_path, version=(2, 3, 1))


def test_mirrors_are_read_from_both_forms_of_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(mirrors, "codename", lambda: "trixie")
    monkeypatch.setattr(mirrors, "_default_keyring", lambda: "/keyring")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        textwrap.dedent(
            """\
            # deb http://commented.example/debian trixie main
            deb cdrom:[Debian]/ trixie main
            deb http://one-line.example/debian trixie main contrib  # a remark
            deb [arch=amd64 signed-by=/by-line] https://other.example/apt trixie main
            deb-src http://source.example/debian trixie main
            deb http://one-line.example/debian trixie-updates main
            """
        )
    )
    (tmp_path / "sources.list.d/debian.sources").write_text(
        textwrap.dedent(
            """\
            Types: deb deb-src
            URIs: http://stanza.example/debian
            Suites: trixie trixie-updates
            Components: main
            # a remark
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

            Types: deb
            URIs: http://stanza.example/debian-security
            Suites: trixie-security
            Components: main

            Enabled: no
            Types: deb
            URIs: http://disabled.example/debian
            Suites: trixie
            Components: main

            Types: deb
            URIs: http://inline.example/elsewhere
            Suites: stable
            Components: main
            Signed-By:
             -----BEGIN PGP PUBLIC KEY BLOCK-----
             .
             abc
            """
        )
    )
    assert mirrors.debian_mirrors(tmp_path) == [
        Mirror(uris="http://stanza.example/debian", signed_by="/usr/share/keyrings/debian-archive-keyring.gpg"),
        Mirror(uris="http://one-line.example/debian", signed_by="/keyring"),
        Mirror(uris="https://other.example/apt", signed_by="/by-line"),
        Mirror(
            uris="http://inline.example/elsewhere",
            signed_by="\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc",
        ),
    ]
