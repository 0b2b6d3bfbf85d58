"""What adapter_config.json says: of PEFT's LoRA (the keys of its LoraConfig) and of MLX's. Not for: the tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_vk.errors import AdapterError

MAX_BYTES = 1 << 20

# Keys of LoraConfig that change what an adapter computes, and that nothing here computes: refused unless empty.
_REFUSED = (
    "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "modules_to_save", "layer_replication",
    "alora_invocation_tokens", "trainable_token_indices", "target_parameters", "use_bdlora", "arrow_config",
    "kasa_config", "velora_config", "monteclora_config",
)  # fmt: skip
# Starts that leave the base weights as they are; others (pissa, olora ...) change them when the adapter is loaded.
_STARTS = (None, True, False, "true", "gaussian", "eva", "orthogonal")
_PATTERN = re.compile(r"\^?[\w.\\-]{1,200}\$?")


@dataclass(frozen=True)
class AdapterConfig:
    """The numbers of an adapter_config.json. mlx: the tensors are those of MLX (factors transposed)."""

    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0
    base_model: str = ""
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    mlx: bool = False

    def rank_of(self, module: str) -> int:
        """The rank for a module by its full name, "model.layers.0.self_attn.q_proj"."""
        return next((r for pattern, r in self.ranks.items() if _matches(pattern, module)), self.rank)

    def alpha_of(self, module: str) -> float:
        """Alpha for a module by its full name."""
        return next((a for pattern, a in self.alphas.items() if _matches(pattern, module)), self.alpha)


def _matches(pattern: str, module: str) -> bool:
    """PEFT's rule: the pattern is the whole name or its end behind a dot."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def load_config(path: Path) -> AdapterConfig:
    """Reads and checks a file; AdapterError names the key."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AdapterError(
            f"{path}: {error.strerror}; expected the adapter's configuration beside its tensors"
        ) from None
    if len(raw) > MAX_BYTES:
        raise AdapterError(f"{path}: more than {MAX_BYTES} bytes; expected an adapter_config.json")
    return parse_config(raw, str(path))


def parse_config(raw: bytes | str, source: str) -> AdapterConfig:
    """The configuration in a JSON text; `source` is for messages. AdapterError names the key."""
    try:
        keys = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{source}: not JSON ({error}); expected an adapter_config.json") from None
    if not isinstance(keys, dict):
        raise AdapterError(f"{source}: {type(keys).__name__}; expected a JSON object")
    if "peft_type" not in keys and ("lora_parameters" in keys or "fine_tune_type" in keys):
        return _mlx(keys, source)
    return _peft(keys, source)


def _peft(keys: dict[str, Any], source: str) -> AdapterConfig:
    kind = keys.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{source}: peft_type = {kind!r}; expected 'LORA'")
    for key in _REFUSED:
        if keys.get(key):
            raise AdapterError(f"{source}: {key} = {keys[key]!r:.80} is not supported; expected it absent or empty")
    if keys.get("bias", "none") != "none":
        raise AdapterError(f"{source}: bias = {keys['bias']!r:.80} is not supported; expected 'none'")
    start = keys.get("init_lora_weights", True)
    if not isinstance(start, (bool, str, type(None))) or start not in _STARTS:
        raise AdapterError(
            f"{source}: init_lora_weights = {start!r:.80} changes the base weights; expected one of true, false, "
            f"gaussian, eva, orthogonal (PEFT converts when saving with path_initial_model_for_weight_conversion)"
        )
    return AdapterConfig(
        rank=_whole(keys.get("r"), source, "r"),
        alpha=_number(keys.get("lora_alpha"), source, "lora_alpha"),
        rslora=_flag(keys.get("use_rslora", False), source, "use_rslora"),
        dropout=_number(keys.get("lora_dropout", 0.0), source, "lora_dropout"),
        base_model=_text(keys.get("base_model_name_or_path"), source, "base_model_name_or_path"),
        ranks={p: _whole(v, source, f"rank_pattern[{p!r}]") for p, v in _patterns(keys, "rank_pattern", source)},
        alphas={p: _number(v, source, f"alpha_pattern[{p!r}]") for p, v in _patterns(keys, "alpha_pattern", source)},
    )


def _mlx(keys: dict[str, Any], source: str) -> AdapterConfig:
    """MLX: y + scale * (x a) b, the scale stated as such."""
    kind = keys.get("fine_tune_type", "lora")
    if kind != "lora" or keys.get("use_dora"):
        raise AdapterError(f"{source}: fine_tune_type = {kind!r:.80}, use_dora = {keys.get('use_dora')!r:.80}; "
                           f"expected 'lora' without DoRA")  # fmt: skip
    found = keys.get("lora_parameters")
    if not isinstance(found, dict):
        raise AdapterError(f"{source}: lora_parameters = {found!r:.80}; expected an object with rank and scale")
    rank = _whole(found.get("rank"), source, "lora_parameters.rank")
    if "scale" in found:
        alpha = _number(found["scale"], source, "lora_parameters.scale") * rank
    else:
        alpha = _number(found.get("alpha"), source, "lora_parameters.alpha")
    return AdapterConfig(
        rank=rank,
        alpha=alpha,
        dropout=_number(found.get("dropout", 0.0), source, "lora_parameters.dropout"),
        base_model=_text(keys.get("model"), source, "model"),
        mlx=True,
    )


def _patterns(keys: dict[str, Any], key: str, source: str) -> list[tuple[str, Any]]:
    """Module names of rank_pattern or alpha_pattern; real expressions are refused (they come from strangers' files)."""
    found = keys.get(key) or {}
    if not isinstance(found, dict):
        raise AdapterError(f"{source}: {key} = {found!r:.80}; expected an object of module names")
    for pattern in found:
        if not _PATTERN.fullmatch(pattern):
            raise AdapterError(f"{source}: {key}: {pattern!r:.80}; expected a module's name, without wildcards")
        try:
            re.compile(pattern)
        except re.error as error:
            raise AdapterError(f"{source}: {key}: {pattern!r:.80} ({error}); expected a module's name") from None
    return list(found.items())


def _number(value: Any, source: str, key: str) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not abs(value) < 1e30 or not math.isfinite(value):
        raise AdapterError(f"{source}: {key} = {value!r:.80}; expected a finite number")
    return float(value)


def _whole(value: Any, source: str, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AdapterError(f"{source}: {key} = {value!r:.80}; expected a whole number from 1")
    return value


def _flag(value: Any, source: str, key: str) -> bool:
    if not isinstance(value, bool):
        raise AdapterError(f"{source}: {key} = {value!r:.80}; expected true or false")
    return value


def _text(value: Any, source: str, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise AdapterError(f"{source}: {key} = {value!r:.80}; expected a string")
    return value


def config_text(config: AdapterConfig, modules: list[str]) -> str:
    """adapter_config.json as PEFT writes it, for these target modules (short names or full ones)."""
    alphas = {module: _plain(alpha) for module, alpha in config.alphas.items()}
    keys = {
        "alpha_pattern": alphas,
        "auto_mapping": None,
        "base_model_name_or_path": config.base_model or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": _plain(config.alpha),
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": dict(config.ranks),
        "revision": None,
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": config.rslora,
    }
    return json.dumps(keys, indent=2) + "\n"


def _plain(alpha: float) -> int | float:
    """An integer where it is one: PEFT declares lora_alpha as int."""
    return int(alpha) if alpha == int(alpha) else alpha
