"""Where this process looks host names up; see nsswitch.conf(5)."""

import ctypes
from contextlib import suppress

from wasm_sandboxer.linux.syscall import libc


def fix_sources() -> None:
    """Look names up in /etc/hosts and the DNS for ever, whatever /etc/nsswitch.conf says.

    In a container's root that file is the image's, and each source it names is a library of the image's that the
    C library would load. glibc alone reads it; musl has nothing to fix.
    """
    with suppress(AttributeError):
        configure = getattr(libc, "__nss_configure_lookup")  # its name looks like a private one
        configure.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        configure(b"hosts", b"files dns")
