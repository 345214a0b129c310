"""Files on disk or behind any URL that fsspec knows (gs://, s3://, https://): naming, describing and reading them."""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from stat import S_ISDIR
from typing import IO, Any

import fsspec

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# What file systems call the thing that changes with a file's content, the best first.
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
_THREADS = 32  # requests under way to a remote store
_BLOCK = 4 << 20  # bytes read ahead of a remote file: members of a tar are mostly smaller than that


def expand(given: str | Iterable[str]) -> list[str]:
    """File names from one text or several, each with braces ({00000..00041}, {a,b}) or wildcards (*, ?, [0-9]).

    The order is that of `given`, within a wildcard alphabetical. Raises ValueError for an empty list and
    FileNotFoundError for a wildcard that nothing matches. A name without wildcards is not looked up.
    """
    texts = [given] if isinstance(given, str) else list(given)
    names = [name for text in texts for pattern in _braces(text) for name in _matches(pattern)]
    if not names or not all(texts):
        raise ValueError(f"no files given ({given!r}): give names, {{00000..00041}} ranges or wildcards")
    return names


def stat(urls: list[str]) -> list[tuple[int, str]]:
    """(bytes, a text that changes with the content) of every file. Raises FileNotFoundError that counts the missing."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(version, urls))
    missing = [url for url, entry in zip(urls, found, strict=True) if entry is None]
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise FileNotFoundError(f"{len(missing)} of {len(urls)} files do not exist: {', '.join(missing[:3])}{more}")
    return [entry for entry in found if entry is not None]


def version(url: str) -> tuple[int, str] | None:
    """(bytes, a text that changes with the content) of a file, None where there is none.

    Raises ValueError for a folder, or where the server does not say its size.
    """
    try:
        if (path := _local(url)) is not None:
            entry = os.stat(path)
            if S_ISDIR(entry.st_mode):
                raise ValueError(f"{url} is a folder; name its files, for example {url.rstrip('/')}/*")
            return _told(entry)
        system, path = fsspec.core.url_to_fs(url)
        info = system.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if info["type"] == "directory":
        raise ValueError(f"{url} is a folder; name its files, for example {url.rstrip('/')}/*")
    if info["size"] is None:
        raise ValueError(f"{url}: the server does not say how large it is; copy the file first")
    return info["size"], next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def absolute(url: str) -> str:
    """The same name whatever the working folder is."""
    path = _local(url)
    return url if path is None else os.path.abspath(path)


def exists(url: str) -> bool:
    """Whether there is such a file, and not a folder of that name."""
    try:
        return version(url) is not None
    except ValueError:
        return False


def digest(url: str) -> str:
    """blake2b over a whole file, 16 bytes in hex. Raises OSError."""
    found = hashlib.blake2b(digest_size=16)
    with open_stream(url) as stream:
        while block := stream.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def join(root: str, path: str) -> str:
    """`path` below the folder `root`, unless it is absolute or a URL by itself."""
    if os.path.isabs(path) or "://" in path or not root:
        return path
    return f"{root.rstrip('/')}/{path}"


def base_name(url: str) -> str:
    """The last part of a path or URL."""
    return url.rstrip("/").rpartition("/")[2]


def open_stream(url: str) -> IO[bytes]:
    """The file for reading from the beginning on, with small steps ahead."""
    if (path := _local(url)) is not None:
        return open(path, "rb", buffering=8192)
    system, path = fsspec.core.url_to_fs(url)
    return system.open(path, "rb", block_size=_BLOCK, cache_type="readahead")


class Reader:
    """Reads ranges of one file, from any thread. A local file stays open for as long as someone holds its Reader.

    expected: what `stat` told of the file; a local one of which it tells something else by now is not read.
    """

    def __init__(self, url: str, expected: tuple[int, str] | None = None):
        local = _local(url)
        self.is_local, self._expected = local is not None, expected
        self._descriptor = -1  # what __del__ finds when opening failed
        self._system: Any = None
        if local is None:
            self._system, self._path = fsspec.core.url_to_fs(url)
        else:
            self._descriptor = os.open(local, os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close):  # bound, as modules are emptied when Python exits
        if self._descriptor >= 0:
            close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size). Raises OSError where they are not all there, or the file is not the expected one."""
        if self._system is None:
            data = os.pread(self._descriptor, size, offset)
        else:
            try:
                data = self._system.cat_file(self._path, start=offset, end=offset + size) if size else b""
            except Exception as error:  # every store has its own types
                raise OSError(f"{type(error).__name__}: {error}") from error
        if len(data) != size:
            raise OSError(f"{len(data)} bytes at offset {offset} where {size} should be")
        if self._system is None and self._expected and _told(os.fstat(self._descriptor)) != self._expected:
            raise OSError("the file has changed since it was opened first")
        return data


def read(url: str) -> bytes:
    """A whole file. Raises OSError."""
    if (path := _local(url)) is not None:
        with open(path, "rb") as file:
            return file.read()
    try:
        system, path = fsspec.core.url_to_fs(url)
        return system.cat_file(path)
    except Exception as error:  # every store has its own types
        raise OSError(f"{type(error).__name__}: {error}") from error


def _local(url: str) -> str | None:
    """The path of a local file, None for a remote one."""
    url = url.removeprefix("file://")
    return None if "://" in url else os.path.expanduser(url)


def _braces(text: str) -> list[str]:
    found = _BRACES.search(text)
    if found is None:
        return [text]
    if span := _RANGE.fullmatch(found[1]):
        first, last = span.groups()
        if int(first) > int(last):
            raise ValueError(f"{found[0]} in {text!r} counts down; give {{{last}..{first}}}")
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = found[1].split(",")
    return [text[: found.start()] + choice + rest for choice in choices for rest in _braces(text[found.end() :])]


def _matches(pattern: str) -> list[str]:
    web = pattern.startswith(("http://", "https://"))  # where a question mark begins the query
    if web or not glob.has_magic(pattern) or version(pattern) is not None:
        return [pattern]
    if (path := _local(pattern)) is not None:
        names = sorted(glob.glob(path, recursive=True))
    else:
        system, path = fsspec.core.url_to_fs(pattern)
        names = [system.unstrip_protocol(str(name)) for name in sorted(system.glob(path))]
    if not names:
        raise FileNotFoundError(f"no file matches {pattern!r}")
    return names


def _told(entry: os.stat_result) -> tuple[int, str]:
    return entry.st_size, str(entry.st_mtime_ns)
