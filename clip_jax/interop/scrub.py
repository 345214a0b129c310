"""What leaves the house says what something is, and not whose disk, bucket or password it came from."""

import re
from pathlib import PurePath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

_LOCAL = re.compile(r"[/~]|\.\.?/|[A-Za-z]:\\")
_URL = re.compile(r"[A-Za-z][\w+.-]*://")


def scrubbed(value: Any) -> Any:
    """Plain data (as json gives it) with all paths and addresses cut to their last name: no folders, hosts, users or keys.

    "gs://team/laion/{0..9}.tar?key=x" and "/home/me/{0..9}.tar" become "{0..9}.tar", "configs/base.py:/home/me/model"
    "configs/base.py:model". Names that are relative, such as those of data sets and of repositories, stay.
    """
    if isinstance(value, dict):
        return {key: scrubbed(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(one) for one in value]
    if not isinstance(value, str):
        return value
    if _URL.match(value):
        return PurePath(urlsplit(value).path).name or value.partition(":")[0]
    if _LOCAL.match(value):
        return PureWindowsPath(value).name if "\\" in value else PurePath(value).name
    before, colon, after = value.partition(":")
    return f"{before}:{scrubbed(after)}" if colon and (_LOCAL.match(after) or _URL.match(after)) else value
