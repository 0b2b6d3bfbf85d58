"""Files that are there whole or not at all: written under another name, then renamed. Not for: what is in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flux_vk.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when the block ends well and vanishes when it does not."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)) and error.errno is not None:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file, text in UTF-8, so that it is there whole or not at all. InputError where that cannot be."""
    try:
        with replacing(path) as file:
            file.write(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
