"""Tiny vocabularies written as GGUF files with the `gguf` package, for tests without the reference folder.

Not for: golden data; these are made anew in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

from flux_vk.text.bpe import byte_letters

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def write_gguf(path: Path, keys: Mapping[str, Any]) -> Path:
    """A GGUF file without tensors that holds `keys`; lists of floats are written as F32, of ints as I32."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def spm_keys(with_bytes: bool = True, **more: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary that can merge "\u2581hello" and "\u2581he"; `more` goes under
    tokenizer.ggml.
    """
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    if with_bytes:
        tokens += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    merged = ["he", "ll", "\u2581he", "llo", "\u2581hello", "\u2581\u2581", "s>"]
    tokens += [(piece, NORMAL) for piece in [*merged, *"\u2581helo<>s/abc.,\u00e9"]]
    tokens += [("<|im_end|>", CONTROL), ("<|im_start|>", CONTROL), ("<user>", USER_DEFINED)]
    scores = [-float(i) if kind == NORMAL else 0.0 for i, (_, kind) in enumerate(tokens)]
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": [token for token, _ in tokens],
        "scores": scores,
        "token_type": [kind for _, kind in tokens],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


def bpe_keys(pre: str = "gpt-2", **more: Any) -> dict[str, Any]:
    """A byte-level vocabulary with all bytes and a few merges; `more` goes under tokenizer.ggml."""
    letters = byte_letters()
    merges = ["h e", "l l", "he ll", "hell o", "\u0120 hello", "1 2", "12 3"]
    tokens = [(letter, NORMAL) for letter in letters]
    tokens += [("".join(merge.split(" ")), NORMAL) for merge in merges]
    tokens += [("<|endoftext|>", CONTROL), ("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL)]
    tokens += [("<tool>", USER_DEFINED), ("<tool>>", USER_DEFINED)]
    names = [token for token, _ in tokens]
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": names,
        "token_type": [kind for _, kind in tokens],
        "merges": merges,
        "eos_token_id": names.index("<|endoftext|>"),
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}
