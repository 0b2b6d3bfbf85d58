"""What `flux_vk.info` tells about this machine: versions, devices, the kernel variants that a device gets.

Works without Vulkan, and then says what is missing. Not for: files (info_file.py).
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from flux_vk.cli.common import human_bytes
from flux_vk.cli.tables import aligned
from flux_vk.errors import ArgumentError, ContractError, VulkanUnavailable
from flux_vk.settings import settings

if TYPE_CHECKING:
    from flux_vk.gpu.contract import Contract

KOMPUTE = "0.9.0"
"""Release of Kompute's C++ core that the native module is built from."""

PACKAGES = ("numpy", "sentencepiece", "tokenizers", "jinja2", "rich")


def versions(own: str) -> dict[str, str]:
    """What a bug report needs, name -> version, `own` that of flux_vk; "missing" where something is not there."""
    found = {"flux_vk": own, "python": f"{platform.python_implementation()} {platform.python_version()}"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    found["kompute"] = KOMPUTE
    found["vulkan_loader"] = loader_version()
    found["os"] = f"{_distribution()}, {platform.system()} {platform.release()} {platform.machine()}"
    return found


def loader_version() -> str:
    """The Vulkan loader's version, or "missing"."""
    try:
        loader = ctypes.CDLL("libvulkan.so.1")
        version = ctypes.c_uint32()
        if loader.vkEnumerateInstanceVersion(ctypes.byref(version)) != 0:
            return "unknown"
    except (OSError, AttributeError):
        return "missing"
    v = version.value
    return f"{v >> 22 & 0x7F}.{v >> 12 & 0x3FF}.{v & 0xFFF}"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", sys.platform)
    except OSError:
        return sys.platform


def collect(select: str | None, version: str) -> dict[str, Any]:
    """Everything as plain data; `version` is flux_vk's own.

    `error` holds the reason where Vulkan cannot be used; UnknownDevice is raised.
    """
    from flux_vk.gpu import list_devices, select_device
    from flux_vk.gpu.selection import family_of

    found: dict[str, Any] = {
        "versions": versions(version), "settings": _settings(), "devices": [], "selected": None,
        "kernels": [], "tuning": None, "error": None,
    }  # fmt: skip
    try:
        devices = list_devices()
    except VulkanUnavailable as error:
        found["error"] = str(error)
        return found
    for d in devices:
        found["devices"].append({
            "index": d["index"], "name": d["name"], "kind": d["kind"], "usable": d["usable"], "memory": d["memory"],
            "api_version": d["api_version"], "driver": d["driver"], "vendor_id": d["vendor_id"],
            "device_id": d["device_id"], "limits": d["limits"], "features": sorted(d["features"]),
            "coopmat": d["coopmat"],
        })  # fmt: skip
    chosen = select_device(select)
    found["selected"] = chosen["index"]
    found["tuning"] = tuning(chosen)
    try:
        found["kernels"] = variants(chosen["features"], family_of(chosen["kind"]))
    except ContractError as error:
        found["error"] = str(error)
    return found


def tuning(device: dict[str, Any]) -> dict[str, Any]:
    """What `bench tune` measured on this device with this driver: the file (None: nothing is kept) and the choices."""
    from flux_vk.gpu.tuner import Tuner, file_of

    path = file_of(device)
    choices = Tuner(path).choices()
    return {
        "file": None if path is None else str(path),
        "count": len(choices),
        "choices": [{"name": name, **asdict(choice)} for name, choice in choices.items()],
    }


def _settings() -> dict[str, Any]:
    return {k: v if isinstance(v, (bool, int)) or v is None else str(v) for k, v in asdict(settings()).items()}


def variants(features: Iterable[str], family: str) -> list[dict[str, Any]]:
    """For every kernel, and every combination of types it has, the variant a device of this family will run."""
    from flux_vk.gpu import kernels

    have = tuple(features)
    return [row for c in kernels.contracts().values() for row in _chosen(c, have, family)]


def _chosen(c: Contract, features: Iterable[str], family: str) -> list[dict[str, Any]]:
    from flux_vk.gpu import kernels

    rows = []
    for types in dict.fromkeys(tuple(sorted(v.types.items())) for v in c.variants):
        row: dict[str, Any] = {"kernel": c.name, "types": dict(types), "variant": None, "note": ""}
        try:
            row["variant"] = kernels.choose(c, dict(types), features, family).name
        except ArgumentError as error:
            row["note"] = str(error)
        rows.append(row)
    return rows


def as_text(found: dict[str, Any], *, everything: bool = True, verbose: bool = False) -> str:
    """The same for reading; verbose: with every choice of the tuner."""
    parts = ["versions\n" + aligned(["", ""], list(found["versions"].items()), "  ")]
    if found["devices"]:
        header = ["", "index", "name", "kind", "memory", "Vulkan", "driver"]
        rows = [
            [
                "*" if d["index"] == found["selected"] else "", d["index"], d["name"], d["kind"],
                human_bytes(d["memory"]), d["api_version"] + ("" if d["usable"] else " (too old)"), d["driver"],
            ]
            for d in found["devices"]
        ]  # fmt: skip
        parts.append("devices (* = used; choose with --device or FLUX_VK_DEVICE)\n" + aligned(header, rows, "  "))
    chosen = next((d for d in found["devices"] if d["index"] == found["selected"]), None)
    if chosen is not None and everything:
        parts.append("features\n  " + " ".join(chosen["features"]))
        limits = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in chosen["limits"].items()}
        parts.append("limits\n" + "\n".join(f"  {k:26} {v}" for k, v in limits.items()))
        parts.append("products of prompts (FLUX_VK_PREFILL)\n  " + prefill_line(chosen))
        parts.append("kernel variants on this device\n" + _kernel_lines(found["kernels"]))
        parts.append("tuned shapes (python -m flux_vk.bench tune)\n" + _tuning_lines(found["tuning"], verbose))
        given = [(k, v) for k, v in found["settings"].items() if v is not None]
        parts.append("settings (docs/environment.md)\n" + "\n".join(f"  {k:14} {v}" for k, v in given))
    if found["error"]:
        parts.append(f"no device can be used: {found['error']}")
    return "\n\n".join(parts)


def _tuning_lines(found: dict[str, Any], verbose: bool) -> str:
    if found["file"] is None:
        return "  none: FLUX_VK_NO_CACHE is set, nothing is kept"
    if not found["count"]:
        return f"  none measured on this device with this driver; they would be in {found['file']}"
    better = sum(c["us"] < c["rule_us"] for c in found["choices"])
    line = f"  {found['count']} measured, {better} of them differ from the rule; in {found['file']}"
    if not verbose:
        return line + " (--verbose lists them)"
    header = ["product", "values", "us", "rule us", "gain"]
    rows = [
        [
            c["name"], " ".join(f"{k}={v}" for k, v in c["values"].items()), c["us"], c["rule_us"],
            c["rule_us"] / c["us"] if c["us"] else 1.0,
        ]
        for c in found["choices"]
    ]  # fmt: skip
    return line + "\n" + aligned(header, rows, "  ")


def prefill_line(d: dict[str, Any]) -> str:
    """The arithmetic of prompts on a device as listed by `collect`, and the cooperative matrices that it has."""
    from flux_vk.gpu.matmul_tile import tile_variant_for
    from flux_vk.gpu.null import NullDevice

    try:
        variant = tile_variant_for(NullDevice(d["kind"], frozenset(d["features"]), **d["limits"]), "q8_0")
        word = variant.split(".")[1] if variant else "exact"
    except ArgumentError as error:
        word = str(error)
    shapes = dict.fromkeys(f"{c['api']} {c['m']}x{c['n']}x{c['k']} {c['a']} to {c['result']}" for c in d["coopmat"])
    return f"{word}; cooperative matrices: {', '.join(shapes) or 'none'}"


def _kernel_lines(rows: list[dict[str, Any]]) -> str:
    """One line a kernel: variants with the types they serve."""
    by_kernel: dict[str, list[str]] = {}
    for r in rows:
        types = "/".join(dict.fromkeys(r["types"].values()))
        if r["variant"] is None:
            word = f"{types or 'default'}: none ({r['note']})"
        else:
            word = r["variant"] if not types or r["variant"] == types else f"{types}: {r['variant']}"
        by_kernel.setdefault(r["kernel"], []).append(word)
    return "\n".join(f"  {name:20} {', '.join(words)}" for name, words in sorted(by_kernel.items()))
