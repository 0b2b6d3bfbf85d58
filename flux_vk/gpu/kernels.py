"""The kernels that were built: contracts and SPIR-V from the package's spirv/ folder, and the choice of a variant.

`use_folder` adds kernels of your own. Not for: launching them (chain.py, record.py) or compiling them
(native/compile_shaders.py).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError, ContractError
from . import spirv as spirv_module
from .contract import Contract, Variant

if TYPE_CHECKING:
    from .device import BaseDevice

FOLDER = Path(__file__).resolve().parent.parent / "spirv"


@dataclass(frozen=True)
class _Own:
    """Kernels of one folder that `use_folder` has read: contracts by name, SPIR-V by (kernel, variant)."""

    contracts: dict[str, Contract]
    spirv: dict[tuple[str, str], bytes]


_lock = threading.Lock()
_own: dict[Path, _Own] = {}  # in the order of use; a later folder wins


@lru_cache(maxsize=1)
def contracts() -> Mapping[str, Contract]:
    """All contracts by name. Raises ContractError where the package was not built."""
    known = _read_index(FOLDER / "index.json", "the kernels were not built; run `make setup`")
    for own in _own.values():
        known.update(own.contracts)
    return known


def use_folder(folder: str | PathLike[str], *, replace: bool = False) -> tuple[str, ...]:
    """Make the kernels of another folder callable on every chain of this process; returns their names.

    folder: what `native/compile_shaders.py --kernels ... --shaders ... --out FOLDER` wrote: index.json and *.spv. It is
    read here, and each module is checked against its contract; what changes later does not matter until the next call.
    That call reads the folder again; chains that were built before are to be built again.
    replace: allow names that exist already, to try another form of a kernel under every model.
    Raises ContractError naming the folder and what is wrong with it; then nothing has changed.
    """
    path = Path(folder).resolve()
    compiled = f"compile it with native/compile_shaders.py --kernels ... --out {path}"
    found = _read_index(path / "index.json", compiled)
    code = {}
    for c in found.values():
        for v in c.variants:
            code[c.name, v.name] = _read_spirv(path, c.name, v.name, compiled)
            spirv_module.check_against(c, v.name, code[c.name, v.name])
    with _lock:
        taken = {name for other, own in _own.items() if other != path for name in own.contracts}
        taken |= set(_read_index(FOLDER / "index.json", "the kernels were not built; run `make setup`"))
        double = sorted(taken & set(found))
        if double and not replace:
            raise ContractError(
                f"{path}: there is a kernel {double[0]!r} already; rename yours, or pass replace=True to use it instead"
            )
        _own.pop(path, None)
        _own[path] = _Own(found, code)
        _forget()
    return tuple(sorted(found))


def leave_folder(folder: str | PathLike[str]) -> None:
    """Undo `use_folder`: its kernels are gone, those it replaced are back. Recorded chains go on as they are."""
    with _lock:
        _own.pop(Path(folder).resolve(), None)
        _forget()


def _forget() -> None:
    contracts.cache_clear()
    spirv.cache_clear()


def _read_index(path: Path, otherwise: str) -> dict[str, Contract]:
    if not path.exists():
        raise ContractError(f"{path} does not exist: {otherwise}")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return {name: Contract.from_json(c) for name, c in index.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"{path} cannot be read ({type(error).__name__}: {error}): {otherwise}") from None


def contract(name: str) -> Contract:
    """One contract by name; ContractError listing close names otherwise."""
    known = contracts()
    if name not in known:
        import difflib

        close = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise ContractError(f"there is no kernel {name!r}; did you mean {', '.join(close)}?")
    return known[name]


@lru_cache(maxsize=1024)
def spirv(kernel: str, variant: str) -> bytes:
    """The compiled words of one variant."""
    for own in reversed(_own.values()):
        if kernel in own.contracts:
            return own.spirv[kernel, variant]
    return _read_spirv(FOLDER, kernel, variant, "run `make setup` (the shaders are older than the contracts)")


def _read_spirv(folder: Path, kernel: str, variant: str, otherwise: str) -> bytes:
    path = folder / f"{kernel}--{variant}.spv"
    if not path.exists():
        raise ContractError(f"{path} does not exist: {otherwise}")
    return path.read_bytes()


def made_for(device: BaseDevice, kernel: str, variant: str = "lane") -> bool:
    """Whether this is a CPU driver that has what a variant, made for such drivers, requires."""
    return device.family == "cpu" and device.features.issuperset(contract(kernel).variant(variant).requires)


def choose(c: Contract, dtypes: Mapping[str, str], features: Iterable[str], family: str) -> Variant:
    """The variant for these binding dtypes on a device with these features.

    Among those that fit, one that prefers the device's family ("cpu" or "gpu") comes first, then one without any.
    Raises ArgumentError naming the dtypes, or the features that are missing.
    """
    have = frozenset(features)
    key = (id(c), *sorted(dtypes.items()), have, family)
    known = _chosen.get(key)
    if known is None:
        if len(_chosen) >= 1024:
            _chosen.clear()
        known = _chosen[key] = (c, _choose(c, dtypes, have, family))
    return known[1]


_chosen: dict[tuple[object, ...], tuple[Contract, Variant]] = {}  # with the contract, so that no other takes its id


def _choose(c: Contract, dtypes: Mapping[str, str], have: frozenset[str], family: str) -> Variant:
    left_out = {b.name for b in c.bindings if b.optional and b.name not in dtypes}
    typed = [v for v in c.variants if all(dtypes.get(b) == t or b in left_out for b, t in v.types.items())]
    if not typed:
        got = ", ".join(f"{b.name} {dtypes[b.name]}" for b in c.bindings if b.type == "*" and b.name in dtypes)
        offers = "; ".join(sorted({", ".join(f"{b} {t}" for b, t in v.types.items()) for v in c.variants}))
        raise ArgumentError(f"kernel {c.name} has no variant for {got}; it has {offers}")
    able = [v for v in typed if have.issuperset(v.requires)]
    if not able:
        missing = sorted(set(typed[0].requires) - have)
        raise ArgumentError(f"kernel {c.name} ({typed[0].name}) needs {', '.join(missing)}, which this device lacks")
    return min(able, key=lambda v: (v.prefer != family, v.prefer is not None))
