"""Vocabularies and chat templates for tests of training data, made of those that tests of texts use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from flux_vk.train.batches import IGNORED, Example
from flux_vk.train.records import Encoder
from tests.text.vocabs import bpe_keys, spm_keys


def encoder(template: str | None = None, spm: bool = False, mask_prompt: bool = False, **keys: Any) -> Encoder:
    """An encoder of a byte-level vocabulary (or of a SentencePiece one), with a chat template or none."""
    metadata = spm_keys(**keys) if spm else bpe_keys(**keys)
    for key in ("token_type", "scores"):  # as the reader of files gives them
        if f"tokenizer.ggml.{key}" in metadata:
            dtype = np.int32 if key == "token_type" else np.float32
            metadata[f"tokenizer.ggml.{key}"] = np.array(metadata[f"tokenizer.ggml.{key}"], dtype)
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    return Encoder.from_gguf(SimpleNamespace(metadata=metadata, path="tiny.gguf"), mask_prompt)


def words(e: Encoder, example: Example) -> tuple[str, str]:
    """(what the model sees, what it learns): tokens by name, with | where one that is not learned lies between."""
    t = e.tokenizer
    learned = "".join("|" if i == IGNORED else t.piece(int(i)).decode() for i in example.labels)
    while "||" in learned:
        learned = learned.replace("||", "|")
    return b"".join(t.piece(int(i)) for i in example.ids).decode(), learned
