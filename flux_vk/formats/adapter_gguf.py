"""GGUF LoRA files, as llama.cpp loads them: NAME.lora_a [rank, in] and NAME.lora_b [out, rank] for the weight NAME.

Keys: general.type = adapter, general.architecture, adapter.type = lora, adapter.lora.alpha (0 or absent: scale 1). The
file's scale is alpha / rank always; what rsLoRA or single alphas add to it is folded in when one is written.
"""

from __future__ import annotations

import math
import os
from collections import Counter

import numpy as np
import numpy.typing as npt

from flux_vk.errors import AdapterError, GGUFError
from flux_vk.formats import blocks
from flux_vk.formats.adapter import MAX_RANK, Adapter, F32Array, LoraPair
from flux_vk.formats.gguf import GGUFFile, open_gguf
from flux_vk.formats.gguf_writer import TensorOut, Value, write_gguf

_A, _B = ".lora_a", ".lora_b"
_OWN_ALPHA, _OWN_RSLORA, _OWN_DROPOUT = "flux_vk.lora.alpha", "flux_vk.lora.use_rslora", "flux_vk.lora.dropout"


def read_gguf_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Reads a GGUF LoRA; factors of any type that can be widened become float32.

    Raises GGUFError for a broken file; AdapterError for one that is no LoRA, lacks halves or has what cannot be used.
    """
    with open_gguf(path) as f:
        kind = f.get("general.type", str, "model")
        lora = f.get("adapter.type", str, "")
        if kind != "adapter" or lora != "lora":
            raise AdapterError(
                f"{path}: general.type = {kind!r}, adapter.type = {lora!r}; expected 'adapter' and 'lora': this is not "
                f"a LoRA adapter"
            )
        pairs = _pairs(f)
        alpha, alphas = _alpha(f, pairs)
        own = f.get(_OWN_ALPHA, float, 0.0)
        rslora = f.get(_OWN_RSLORA, bool, False)
        root = math.sqrt(next(iter(pairs.values())).rank) if rslora else 1.0
        if own > 0 and math.isclose(own * root, alpha, rel_tol=1e-6):
            alpha = own  # as it was before it became a float32, and before the square root of rsLoRA went in
        else:
            rslora = False
        return _made(
            path,
            arch=f.get("general.architecture", str, ""),
            alpha=alpha,
            tensors=pairs,
            rslora=rslora,
            dropout=f.get(_OWN_DROPOUT, float, 0.0),
            name=f.get("general.name", str, ""),
            base_model=f.get("general.base_model.0.name", str, ""),
            alphas=alphas,
        )


def _made(path: str | os.PathLike[str], **parts: object) -> Adapter:
    try:
        return Adapter(**parts)  # type: ignore[arg-type]
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from None


def _alpha(f: GGUFFile, pairs: dict[str, LoraPair]) -> tuple[float, dict[str, float]]:
    """alpha of the file, and where it is 0 (scale 1) the ranks in its place."""
    alpha = f.get("adapter.lora.alpha", float, 0.0)
    if alpha != 0:
        return alpha, {}
    ranks = {name: float(pair.rank) for name, pair in pairs.items()}
    first = next(iter(ranks.values()))
    return first, {name: rank for name, rank in ranks.items() if rank != first}


def _pairs(f: GGUFFile) -> dict[str, LoraPair]:
    """All pairs in the file's order."""
    names: dict[str, set[str]] = {}
    for tensor in f.tensors:
        base, ending = tensor[: -len(_A)], tensor[-len(_A) :]
        if ending not in (_A, _B):
            raise AdapterError(f"{f.path}: tensor {tensor}: expected a name that ends in {_A} or {_B}")
        names.setdefault(base, set()).add(ending)
    if not names:
        raise AdapterError(f"{f.path}: no tensors; expected NAME{_A} and NAME{_B} of at least one weight")
    for base, endings in names.items():
        for ending in {_A, _B} - endings:
            raise AdapterError(f"{f.path}: tensor {base}{ending} is missing; expected both halves of {base}")
    return {base: _pair(f, base) for base in names}


def _pair(f: GGUFFile, base: str) -> LoraPair:
    a, b = f.tensor(base + _A), f.tensor(base + _B)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] > MAX_RANK:
        raise AdapterError(
            f"{f.path}: {base}: {_A[1:]} has shape {a.shape}, {_B[1:]} {b.shape}; expected [rank, in] and [out, rank] "
            f"with one rank of at most {MAX_RANK}"
        )
    return LoraPair(_floats(f, base + _A), _floats(f, base + _B))


def _floats(f: GGUFFile, name: str) -> F32Array:
    info = f.tensor(name)
    if info.type not in blocks.RUNNABLE:
        known = ", ".join(blocks.RUNNABLE)
        raise AdapterError(f"{f.path}: tensor {name} has type {info.type}; expected one of {known}")
    return blocks.dequantize(f.raw(name), info.type, info.shape).copy()


def write_gguf_adapter(adapter: Adapter, path: str | os.PathLike[str], type: str = "f32") -> None:
    """Writes a GGUF LoRA; read back it is the same adapter, bit for bit with type "f32".

    type: "f32" or "f16" of the factors. GGUF has one alpha and divides it by each rank: where tensors' scales do not
    follow from one (rsLoRA with several ranks, single alphas), what differs is multiplied into lora_b.
    Raises AdapterError without an architecture or where a factor is beyond f16; written like every GGUF (write_gguf).
    """
    if not adapter.arch:
        raise AdapterError(f"{path}: the adapter has no architecture; read it with arch= before it can become GGUF")
    if type not in ("f32", "f16"):
        raise AdapterError(f"{path}: type {type!r}; expected f32 or f16")
    wanted = {name: adapter.scale(name) * pair.rank for name, pair in adapter.tensors.items()}
    alpha = Counter(wanted.values()).most_common(1)[0][0]
    keys = {
        "general.type": Value("str", "adapter"),
        "general.architecture": Value("str", adapter.arch),
        "general.name": Value("str", adapter.name),
        "general.base_model.count": Value("u32", 1),
        "general.base_model.0.name": Value("str", adapter.base_model),
        "adapter.type": Value("str", "lora"),
        "adapter.lora.alpha": Value("f32", alpha),
        _OWN_DROPOUT: Value("f64", adapter.dropout),
    }
    if not adapter.base_model:
        del keys["general.base_model.count"], keys["general.base_model.0.name"]
    if len(set(wanted.values())) == 1 and not adapter.alphas:
        keys |= {_OWN_ALPHA: Value("f64", adapter.alpha), _OWN_RSLORA: Value("bool", adapter.rslora)}
    outs = []
    for name, pair in adapter.tensors.items():
        factor = wanted[name] / alpha
        b = pair.b if factor == 1 else (pair.b * np.float64(factor)).astype(np.float32)
        for ending, values in ((_A, pair.a), (_B, b)):
            outs.append(TensorOut(name + ending, type, values.shape, _stored(name + ending, values, type)))
    try:
        write_gguf(path, keys, outs)
    except GGUFError as error:
        raise AdapterError(f"the adapter cannot be written as GGUF: {error}") from None


def _stored(name: str, values: F32Array, type: str) -> npt.NDArray[np.float32] | npt.NDArray[np.float16]:
    if type == "f32":
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise AdapterError(f"{name}: numbers beyond 65504, the largest of f16; write it as f32")
    return half
