"""Owns where Debian's packages come from: the archives that the machine's own apt sources name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NEWEST = ("testing", "unstable")
"""Suites for what this machine's own release is too old for."""

_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",  # the name from Debian 13 on
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A Debian archive as the machine's own apt sources describe it."""

    uris: str
    signed_by: str = ""
    trusted: str = ""

    def stanza(self, suite: str) -> str:
        """The same archive with another suite, in the deb822 form of sources.list(5).

        `Targets` keeps apt from loading icons and translations too.
        """
        fields = {
            "Types": "deb",
            "URIs": self.uris,
            "Suites": suite,
            "Components": "main",
            "Targets": "Packages",
            "Signed-By": self.signed_by,
            "Trusted": self.trusted,
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def debian_mirrors(etc: Path = Path("/etc/apt")) -> list[Mirror]:
    """The archives in the machine's apt sources that may be Debian's own, likeliest first."""
    stanzas: list[dict[str, str]] = []
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if path.suffix == ".sources" and path.is_file():
            stanzas += _deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            stanzas += _one_line(path.read_text())
    found = [stanza for stanza in stanzas if _may_be_debian(stanza)]
    found.sort(key=_strangeness)
    mirrors = [
        Mirror(
            uris=stanza["uris"],
            signed_by=stanza.get("signed-by") or _default_keyring(),
            trusted=stanza.get("trusted", ""),
        )
        for stanza in found
    ]
    return list(dict.fromkeys(mirrors))


def codename() -> str:
    """The machine's Debian release by name (os-release(5))."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return "stable"
    found = re.search(r'^VERSION_CODENAME="?(\w+)', text, re.MULTILINE)
    return found[1] if found else "stable"


def _deb822(text: str) -> list[dict[str, str]]:
    """Stanzas of `Name: value` lines; a line that starts with a blank goes on with the value before it."""
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
        elif line[0].isspace():
            stanzas[-1][name] += "\n" + line
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            stanzas[-1][name] = value.strip()
    return [stanza for stanza in stanzas if stanza]


def _one_line(text: str) -> list[dict[str, str]]:
    """Lines of `deb [option=value …] uri suite component…`, as stanzas of the other form."""
    pattern = re.compile(r"(deb\S*)\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)")
    stanzas: list[dict[str, str]] = []
    for line in text.splitlines():
        found = pattern.match(line.strip())
        if found is None:
            continue
        kind, options, uris, suites, components = found.groups()
        stanza = dict(option.split("=", 1) for option in (options or "").split() if "=" in option)
        stanza |= {"types": kind, "uris": uris, "suites": suites, "components": components}
        stanzas.append(stanza)
    return stanzas


def _may_be_debian(stanza: Mapping[str, str]) -> bool:
    """Whether a stanza names the main part of a release: an update or security suite lacks the rest."""
    return (
        "deb" in stanza.get("types", "").split()
        and "main" in stanza.get("components", "").split()
        and stanza.get("enabled", "yes") != "no"
        and not stanza.get("uris", "cdrom:").startswith("cdrom:")
        and bool({codename(), "stable", *NEWEST, "sid"} & set(stanza.get("suites", "").split()))
    )


def _strangeness(stanza: Mapping[str, str]) -> int:
    """How unlike Debian's own archive: other vendors may name their suites after Debian's too."""
    return 2 * ("debian-archive" not in stanza.get("signed-by", "")) + (
        not stanza["uris"].split()[0].rstrip("/").endswith("/debian")
    )


def _default_keyring() -> str:
    """Debian's keys, for a source that does not name its own; none leaves it to apt's trusted keys."""
    return next((keyring for keyring in _KEYRINGS if Path(keyring).exists()), "")
