"""Recordings for `evolve`: a model's logits over a text, or over its first part and the part that is held out.

Not for: what is kept of them (flux_vk/flux/evolution/recording.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flux_vk.errors import InputError

if TYPE_CHECKING:
    from flux_vk.engine.model import Model
    from flux_vk.flux.evolution.recording import Recording

CONTEXT = 512
"""Longest window of text that the model reads at once, in tokens."""
HELD_OUT = 0.25
"""Share of the text that is held out where no other text is named."""
MOST_TEXT = 64 << 20
READ = 1280
"""Characters that are read for each position asked for: a text is not tokenized whole for a few of its tokens."""

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be recorded. seed: of the agents' random bits."""

    candidates: int
    positions: int
    seed: int


def read_text(path: Path) -> str:
    """A text file. Raises InputError for one that is missing, too large, not UTF-8 or empty."""
    try:
        with path.open("rb") as file:  # devices have no size and no end
            data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise InputError(f"{path}: more than {MOST_TEXT} bytes; give a part of it")
        text = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; expected a text file") from error
    if not text.strip():
        raise InputError(f"{path}: there is no text in it")
    return text


def fingerprint(text: str) -> str:
    """16 hexadecimal digits that tell texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parts(learn: Path, valid: Path | None) -> tuple[str, str]:
    """(text to learn from, held-out text): two files, or three quarters of one, cut at a blank, and the rest."""
    text = read_text(learn)
    if valid is not None:
        return text, read_text(valid)
    cut = int(len(text) * (1 - HELD_OUT))
    while cut < len(text) and not text[cut].isspace():
        cut += 1
    return text[:cut], text[cut:]


def record(model: Model, text: str, wanted: Wanted, tell: Tell, about: dict[str, object]) -> Recording:
    """The model's best candidates at positions spread over a text. Raises InputError for a text that is too short."""
    from flux_vk.flux.evolution.recording import Recorder, stretches

    ids = model.tokenizer.encode(text[: wanted.positions * READ], add_special=True)
    recorder = Recorder(wanted.candidates, wanted.seed)
    pieces = list(stretches(ids, min(model.context, CONTEXT), wanted.positions))
    for done, (context, first) in enumerate(pieces):
        tell(done, len(pieces))
        recorder.add(context, first, model.logits(context)[first - 1 : len(context) - 1])
    tell(len(pieces), len(pieces))
    return recorder.finish({**about, "text_sha256": fingerprint(text), "text_tokens": len(ids)})
