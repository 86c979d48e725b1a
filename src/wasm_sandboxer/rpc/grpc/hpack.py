"""HPACK, the header compression of HTTP/2: what a server reads and the little it writes; RFC 7541. No I/O.

A Decoder keeps the connection's dynamic table. What we write needs none, so there is no encoder to keep.
"""

from collections import deque

from wasm_sandboxer.rpc.grpc import huffman

__all__ = ["TABLE_SIZE", "Decoder", "HpackError", "literal", "without_table"]

TABLE_SIZE = 4096  # bytes of the dynamic table: HTTP/2's default, and all we grant
_OVERHEAD = 32  # bytes that an entry counts beyond its text (section 4.1)
_MOST = 1 << 28  # no integer of a sane header is this large

# Appendix A.
_STATIC = tuple(
    (name, value)
    for name, _, value in (
        line.partition(" ")
        for line in (
            ":authority", ":method GET", ":method POST", ":path /", ":path /index.html", ":scheme http",
            ":scheme https", ":status 200", ":status 204", ":status 206", ":status 304", ":status 400",
            ":status 404", ":status 500", "accept-charset", "accept-encoding gzip, deflate", "accept-language",
            "accept-ranges", "accept", "access-control-allow-origin", "age", "allow", "authorization",
            "cache-control", "content-disposition", "content-encoding", "content-language", "content-length",
            "content-location", "content-range", "content-type", "cookie", "date", "etag", "expect", "expires",
            "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
            "last-modified", "link", "location", "max-forwards", "proxy-authenticate", "proxy-authorization",
            "range", "referer", "refresh", "retry-after", "server", "set-cookie", "strict-transport-security",
            "transfer-encoding", "user-agent", "vary", "via", "www-authenticate",
        )
    )
)  # fmt: skip


class HpackError(ValueError):
    """The block cannot be read, and none after it on this connection."""


class Decoder:
    """Reads one connection's header blocks, in their order."""

    def __init__(self) -> None:
        self._table: deque[tuple[str, str]] = deque()  # the newest first
        self._size = 0
        self._limit = TABLE_SIZE

    def decode(self, block: bytes) -> list[tuple[str, str]]:
        """The block's fields; raises HpackError."""
        fields: list[tuple[str, str]] = []
        at = 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:  # a field of the tables
                    index, at = _integer(block, at, 7)
                    fields.append(self._field(index))
                elif first & 0x40:  # a field that joins the table
                    field, at = self._literal(block, at, 6)
                    self._add(field)
                    fields.append(field)
                elif first & 0x20:  # the table's size
                    limit, at = _integer(block, at, 5)
                    if fields or limit > TABLE_SIZE:
                        raise HpackError(f"the table's size cannot become {limit} here")
                    self._limit = limit
                    self._evict(0)
                else:  # a field that does not join
                    field, at = self._literal(block, at, 4)
                    fields.append(field)
        except (IndexError, huffman.HuffmanError) as error:
            raise HpackError(f"a header block cannot be read: {error}") from None
        return fields

    def _literal(self, block: bytes, at: int, bits: int) -> tuple[tuple[str, str], int]:
        index, at = _integer(block, at, bits)
        if index:
            name = self._field(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _field(self, index: int) -> tuple[str, str]:
        if not index:
            raise HpackError("there is no field 0")
        if index <= len(_STATIC):
            return _STATIC[index - 1]
        return self._table[index - len(_STATIC) - 1]

    def _add(self, field: tuple[str, str]) -> None:
        size = _size(field)
        self._evict(size)
        if size <= self._limit:
            self._table.appendleft(field)
            self._size += size

    def _evict(self, wanted: int) -> None:
        """Make room."""
        while self._table and self._size + wanted > self._limit:
            self._size -= _size(self._table.pop())


def literal(name: str, value: str) -> bytes:
    """A field that joins no table."""
    return b"\x00" + _text(name) + _text(value)


def without_table() -> bytes:
    """What begins a connection's first block: we keep no table, whatever size the client grants."""
    return b"\x20"


def _text(text: str) -> bytes:
    data = text.encode("latin-1", "replace")
    return _prefixed(len(data), 7) + data


def _prefixed(number: int, bits: int) -> bytes:
    """An integer as section 5.1 has it."""
    most = (1 << bits) - 1
    if number < most:
        return bytes((number,))
    rest = bytearray((most,))
    number -= most
    while number >= 0x80:
        rest.append(number & 0x7F | 0x80)
        number >>= 7
    rest.append(number)
    return bytes(rest)


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer of section 5.1 and where it ends."""
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if number > _MOST:
            raise HpackError("an integer is too large")
        if not byte & 0x80:
            return number, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[str, int]:
    packed = block[at] & 0x80
    length, at = _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise HpackError("a header block ends in a string")
    data = block[at:end]
    return (huffman.decode(data) if packed else data).decode("latin-1"), end


def _size(field: tuple[str, str]) -> int:
    return len(field[0]) + len(field[1]) + _OVERHEAD
