"""The kernels that were built: contracts and SPIR-V from the package's spirv/ folder, and the choice of a variant.

Not for: launching them (chain.py, record.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from ..errors import ArgumentError, ContractError
from .contract import Contract, Variant

FOLDER = Path(__file__).resolve().parent.parent / "spirv"


@lru_cache(maxsize=1)
def contracts() -> Mapping[str, Contract]:
    """All contracts by name. Raises ContractError where the package was not built."""
    path = FOLDER / "index.json"
    if not path.exists():
        raise ContractError(f"{path} does not exist: the kernels were not built; run `make setup`")
    index = json.loads(path.read_text())
    return {name: Contract.from_json(c) for name, c in index.items()}


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
    path = FOLDER / f"{kernel}--{variant}.spv"
    if not path.exists():
        raise ContractError(f"{path} does not exist: run `make setup` (the shaders are older than the contracts)")
    return path.read_bytes()


def choose(
    c: Contract, dtypes: Mapping[str, str], features: Iterable[str], kind: str, defines: Mapping[str, int] | None = None
) -> Variant:
    """The variant for these binding dtypes on a device with these features.

    Among those that fit, one that prefers the device's kind ("cpu" or "gpu") comes first, then one without preference.
    Raises ArgumentError naming the dtypes, or the features that are missing.
    """
    typed = [v for v in c.variants if all(dtypes.get(b) == t for b, t in v.types.items())]
    if not typed:
        got = ", ".join(f"{b.name} {dtypes[b.name]}" for b in c.bindings if b.type == "*" and b.name in dtypes)
        offers = "; ".join(sorted({", ".join(f"{b} {t}" for b, t in v.types.items()) for v in c.variants}))
        raise ArgumentError(f"kernel {c.name} has no variant for {got}; it has {offers}")
    have = set(features)
    able = [v for v in typed if have.issuperset(v.requires)]
    if not able:
        missing = sorted(set(typed[0].requires) - have)
        raise ArgumentError(f"kernel {c.name} ({typed[0].name}) needs {', '.join(missing)}, which this device lacks")
    wanted = "cpu" if kind == "cpu" else "gpu"
    return min(able, key=lambda v: (v.prefer != wanted, v.prefer is not None))
