"""Owns the pods' network: a CNI plugin of ours, since none can be counted on where tests run.

containerd makes each pod's network namespace and brings `lo` up in it by itself; all it wants of a plugin is
an answer with an address. This one answers, in a millisecond, with an address made from the pod's id, and
adds no interface. Inside the namespace guests reach each other on localhost, and port-forward works; from
outside a pod's address leads nowhere. (CNI specification 1.0.0, sections 2 to 5.)
"""

from pathlib import Path

PREFIX = "10.213"
"""The first half of every pod's address."""

_PLUGIN = f"""\
#!/bin/sh
# A pod's id is hexadecimal: its first four digits make the second half of the address.
rest=${{CNI_CONTAINERID#????}}
number=$((0x${{CNI_CONTAINERID%"$rest"}}))
case $CNI_COMMAND in
ADD)
    printf '{{"cniVersion":"1.0.0","interfaces":[{{"name":"%s","sandbox":"%s"}}],' "$CNI_IFNAME" "$CNI_NETNS"
    printf '"ips":[{{"address":"{PREFIX}.%d.%d/16","interface":0}}]}}' $((number >> 8)) $((number & 255))
    ;;
VERSION) printf '{{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}}' ;;
esac
"""

_NETWORK = """\
{"cniVersion": "1.0.0", "name": "harness", "plugins": [{"type": "harness-none"}]}
"""


def write(plugins: Path, networks: Path) -> None:
    """Put the plugin and its one network into the folders that `bin_dirs` and `conf_dir` name."""
    for folder in (plugins, networks):
        folder.mkdir(exist_ok=True)
    (plugins / "harness-none").write_text(_PLUGIN)
    (plugins / "harness-none").chmod(0o755)
    (networks / "10-harness.conflist").write_text(_NETWORK)
