"""Models split over several GGUF files (`NAME-00001-of-00004.gguf`): finding and comparing the parts.

Not for opening files, which is `gguf.py`; these functions only look at names and headers.
"""

from __future__ import annotations

import re
from pathlib import Path

from flux_vk.formats.gguf_reader import Header
from flux_vk.formats.gguf_types import BROKEN, bad

MAX_PARTS = 1024
_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_AGAIN = "download or split the model again"


def _integer(path: Path, header: Header, key: str) -> int:
    value = header.metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        found = header.types.get(key, "no such key")
        raise bad(path, f"key {key!r}", found, "an integer", _AGAIN)
    return value


def count(path: Path, header: Header) -> int:
    """Number of files the model is split over; 1 if it is not."""
    if "split.count" not in header.metadata:
        return 1
    n = _integer(path, header, "split.count")
    if not 0 <= n <= MAX_PARTS:
        raise bad(path, "key 'split.count'", n, f"0 to {MAX_PARTS}", BROKEN)
    return max(n, 1)


def siblings(path: Path, n: int) -> list[Path]:
    """The paths of all `n` parts, in the folder of `path`; GGUFError naming those that are missing."""
    match = _NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != n:
        raise bad(
            path, "file name of a split model", repr(path.name), f"NAME-00001-of-{n:05d}.gguf ... to {n:05d}",
            "give the files their original names, or merge them",
        )  # fmt: skip
    names = [path.with_name(f"{match['stem']}-{i + 1:05d}-of-{n:05d}.gguf") for i in range(n)]
    absent = [p.name for p in names if not p.exists()]
    if absent:
        shown = ", ".join(absent[:4]) + (" ..." if len(absent) > 4 else "")
        raise bad(
            path, "parts of the split model", f"{len(absent)} of {n} missing ({shown})",
            f"all {n} in one folder", "download the missing parts",
        )  # fmt: skip
    return names


def number(path: Path, header: Header, n: int) -> int:
    """The index from 0 of this part: `split.no`, which must agree with the file name."""
    index = _integer(path, header, "split.no")
    match = _NAME.fullmatch(path.name)
    named = int(match["number"]) - 1 if match else index
    if not 0 <= index < n or index != named:
        raise bad(path, "key 'split.no'", index, f"{named} (the file is part {named + 1} of {n})", _AGAIN)
    return index


def check(path: Path, header: Header, index: int, n: int) -> None:
    """GGUFError unless the header belongs to part `index` of `n`."""
    found = count(path, header)
    if found != n:
        raise bad(path, "key 'split.count'", found, f"{n} as in the other parts", _AGAIN)
    number(path, header, n)


def check_total(path: Path, own: Path, headers: list[Header]) -> None:
    """GGUFError unless the parts together have the number of tensors stated, each name once."""
    names: set[str] = set()
    total = 0
    for header in headers:
        twice = names.intersection(header.tensors)
        if twice:
            raise bad(path, f"tensor {min(twice)!r}", "the name in two parts", "in one part", _AGAIN)
        names.update(header.tensors)
        total += len(header.tensors)
    stated = _integer(own, headers[0], "split.tensors.count")
    if total != stated:
        raise bad(path, "key 'split.tensors.count'", stated, f"{total}, the tensors in all parts", _AGAIN)
