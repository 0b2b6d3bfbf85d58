"""The pipeline cache on disk: one file per device and driver, written whole or not at all, read only when intact.

Not for: what is in it (the driver's business); a file that cannot be read or written costs time, never a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger("flux_vk.gpu")

_MAGIC = b"flux_vk pipelines 1\n"
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size


def file_of(folder: Path, info: dict[str, Any]) -> Path:
    """The file for a device as `list_devices` describes it; the driver's UUID changes with its version."""
    uuid = "".join(f"{b:02x}" for b in info["cache_uuid"])
    return folder / f"pipelines-{info['vendor_id']:x}-{info['device_id']:x}-{uuid}.bin"


def read(path: Path) -> bytes:
    """The driver's bytes, or none where the file is missing, unreadable or damaged.

    Vulkan wants exactly what it once gave (VUID-VkPipelineCacheCreateInfo-initialDataSize-00769), and drivers check
    little more than the header, so a checksum stands in front.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        log.debug("pipeline cache not read: %s", error)
        return b""
    data = raw[_HEAD:]
    if raw[:_HEAD] != _MAGIC + hashlib.sha256(data).digest():
        log.info("pipeline cache %s is damaged or of another version; starting with none", path)
        return b""
    return data


def write(path: Path, data: bytes) -> bool:
    """Write to a temporary name and rename; False (and nothing left behind) where that fails."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(_MAGIC + hashlib.sha256(data).digest() + data)
        part.replace(path)
    except OSError as error:
        log.debug("pipeline cache not written: %s", error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return False
    return True
