"""Names and shapes of the tensors a model must have, and the check of a file against them.

Not for: reading their bytes (weights.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flux_vk.errors import ModelError
from flux_vk.models.config import ModelConfig
from flux_vk.models.registry import architecture
from flux_vk.models.rope import FREQ_FACTORS, LONG_FACTORS, SHORT_FACTORS

if TYPE_CHECKING:
    from flux_vk.formats.gguf import GGUFFile

WEIGHT_TYPES = (
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0",
    "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
VECTOR_TYPES = ("f32", "f16", "bf16")
_FACTORS = (FREQ_FACTORS, LONG_FACTORS, SHORT_FACTORS)
_UNUSED = (
    "attn_rot_embd.weight",
    "attn.rotary_emb.inv_freq",
)  # old converters wrote these tables; nobody reads them


@dataclass(frozen=True)
class TensorSpec:
    """A tensor by name. `shape` is (rows, columns) of a matrix or (length,) of a norm or a bias."""

    name: str
    shape: tuple[int, ...]
    optional: bool = False


def linear(name: str, rows: int, columns: int, *, bias: bool | None = None) -> Iterator[TensorSpec]:
    """`name.weight`, and `name.bias`.

    True required, None used when present, False not part of the architecture.
    """
    yield TensorSpec(f"{name}.weight", (rows, columns))
    if bias is not False:
        yield TensorSpec(f"{name}.bias", (rows,), optional=bias is None)


def model_tensors(cfg: ModelConfig) -> Iterator[TensorSpec]:
    """Every tensor of the model in the order of the step. A tied head has no tensor of its own."""
    layer_tensors = architecture(cfg.arch).layer_tensors
    yield TensorSpec("token_embd.weight", (cfg.vocab_size, cfg.dim))
    for i in range(cfg.n_layers):
        yield from layer_tensors(cfg, i)
    yield TensorSpec("output_norm.weight", (cfg.dim,))
    if not cfg.tied:
        yield TensorSpec("output.weight", (cfg.vocab_size, cfg.dim))


def check_tensors(f: GGUFFile, cfg: ModelConfig) -> list[TensorSpec]:
    """The tensors to load, after checking names, shapes and types of all.

    Raises ModelError naming the tensor, what was found and what was expected; also for tensors that the
    architecture does not have, since leaving them out would silently compute something else.
    """
    present = []
    known = {*_FACTORS, "output.weight"}
    for spec in model_tensors(cfg):
        known.add(spec.name)
        info = f.tensors.get(spec.name)
        if info is None:
            if spec.optional:
                continue
            raise ModelError(f"tensor {spec.name} is missing; {cfg.arch} needs it with shape {spec.shape}")
        if tuple(info.shape) != spec.shape:
            raise ModelError(f"tensor {spec.name} has shape {tuple(info.shape)}; expected {spec.shape}")
        types = WEIGHT_TYPES if len(spec.shape) == 2 else VECTOR_TYPES
        if info.type not in types:
            raise ModelError(f"tensor {spec.name} has type {info.type}; expected one of {', '.join(types)}")
        present.append(spec)
    for name in f.tensors:
        if name not in known and not name.endswith(_UNUSED):
            raise ModelError(
                f"tensor {name} is not part of architecture {cfg.arch} as it is implemented here; the file "
                f"needs a variant that is not supported"
            )
    return present


def read_floats(f: GGUFFile, name: str) -> npt.NDArray[np.float32]:
    """A tensor of type f32, f16 or bf16 as float32 in its own shape."""
    info = f.tensors[name]
    raw = f.raw(name)
    if info.type == "f32":
        values = raw.view(np.float32)
    elif info.type == "f16":
        values = raw.view(np.float16).astype(np.float32)
    elif info.type == "bf16":
        values = (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    else:
        raise ModelError(f"tensor {name} has type {info.type}; expected one of {', '.join(VECTOR_TYPES)}")
    return values.reshape(info.shape)
