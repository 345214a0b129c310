"""Where the members of a tar lie: its headers are read, its data skipped (ustar, GNU and pax names)."""

from typing import IO, NamedTuple

_BLOCK = HEADER = 512  # bytes; headers and data both fill whole blocks
_LONG = 90  # characters of a key from which on a header may hold but a part of the name, or another one
_REGULAR = b"0\x007"
_SIZE_DIGITS = 20  # of a pax size in decimal, which is any of 64 bits
_DATALESS = b"123456"  # links, devices, folders, pipes: their size field says nothing of data


class Member(NamedTuple):
    name: str
    offset: int  # of the data, bytes from the file's beginning
    size: int  # bytes


class NotATar(ValueError):
    """The file does not begin with a tar header."""


def members(stream: IO[bytes], file_size: int) -> tuple[list[Member], str]:
    """All regular members that are whole, and what is wrong with the rest: cut or damaged at which byte, "" if neither.

    Raises NotATar. A name is decoded with surrogateescape, so that any bytes come back.
    """
    found: list[Member] = []
    position, name, size_override = 0, None, None
    while True:
        stream.seek(position)
        header = stream.read(_BLOCK)
        if len(header) < _BLOCK:
            if position == 0:
                raise NotATar(_first_words(header))
            return found, f"cut at byte {file_size:,}"
        if header.count(0) == _BLOCK:
            return found, ""
        size = _size(header)
        if size is None:
            if position == 0:
                raise NotATar(_first_words(header))
            return found, f"damaged at byte {position:,}"
        kind = header[156]
        if size_override is not None and kind not in b"LKxg":
            size = size_override
        data = position + _BLOCK
        position = data if kind in _DATALESS else data - (-size // _BLOCK) * _BLOCK
        if data + (0 if kind in _DATALESS else size) > file_size:
            return found, f"cut at byte {file_size:,}"
        if kind in b"Lx":
            body = stream.read(size)
            if kind == ord("L"):
                name = _text(body)
            elif (records := _pax(body)) is None:
                return found, f"damaged at byte {data:,}"
            else:
                name = records.get("path", name)
                size_override = int(records["size"]) if records.get("size") else None
        elif kind == ord("S"):
            return found, f"damaged at byte {data - _BLOCK:,} (a sparse member, which is not read)"
        elif kind not in b"Kg":
            name = name if name is not None else _short_name(header)
            if kind in _REGULAR and not name.endswith("/"):
                found.append(Member(name, data, size))
            name, size_override = None, None


def is_header_of(header: bytes, key: str, size: int) -> bool:
    """Whether it is the header of a member of `size` bytes whose name begins with `key` and a dot. Names that not every
    writer puts into a header, long ones and those beyond ASCII, are not compared."""
    if len(header) != _BLOCK or _size(header) != size:
        return False
    return len(key) >= _LONG or not key.isascii() or _short_name(header).removeprefix("./").startswith(f"{key}.")


def _first_words(header: bytes) -> str:
    if not header:
        return "it is empty"
    for magic, what in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if header.startswith(magic):
            return f"it is compressed with {what}; unpack it, as random access needs a plain tar"
    return f"it begins with {header[:16]!r}"


def _size(header: bytes) -> int | None:
    """The size field, where the checksum is right: the sum of all bytes, the checksum's own eight taken as spaces."""
    try:
        intact = sum(header) - sum(header[148:156]) + 8 * ord(" ") == _number(header[148:156])
        return _number(header[124:136]) if intact else None
    except ValueError:
        return None


def _number(field: bytes) -> int:
    """An octal number as text; or, after a byte 0x80, the rest as a big-endian number (GNU). Raises ValueError."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if digits.strip(b"01234567"):  # int() would take signs and underscores too
        raise ValueError(f"{field!r} is no octal number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _short_name(header: bytes) -> str:
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        return f"{_text(header[345:500])}/{name}"
    return name


def _pax(body: bytes) -> dict[str, str] | None:
    """Records "LENGTH KEY=VALUE" and a newline, the length counting all of the record. None if damaged."""
    records, position = {}, 0
    while position < len(body):
        length, space, _ = body[position : position + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) < 5:
            return None
        space, end = position + len(length), position + int(length)
        key, _, value = body[space + 1 : end - 1].partition(b"=")
        if key == b"size" and value and not (value.isdigit() and len(value) <= _SIZE_DIGITS):
            return None
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position = end
    return records
