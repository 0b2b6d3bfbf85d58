"""The library face: a GGUF file opened on a device, ready to write text and to be asked for logits.

Not for: how steps run (runner.py) or how tokens are drawn (flux_vk.decode).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from operator import index
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..decode import Breakers, SamplingParams, Swarm, find_breakers
from ..errors import ContextFull, FluxError, InputError, TokenizerError
from ..formats.gguf import GGUFFile, open_gguf
from ..gpu import Device, Profile
from ..models import ModelConfig, memory_needed, read_config
from ..models.lora import Lora, Scaled, fill_lora, lora_bytes, lora_row_bytes, plan_lora, prepare_lora, read_loras
from ..models.memory import kv_bytes
from ..models.weights import fill_weights, prepare_weights
from ..text import Grammar, Tokenizer
from ..text.matching import GrammarVocabulary
from ..text.vocab import CHAT_TEMPLATE
from .background import Background
from .buffers import STEP_ROWS, Limits, check_kv_range, decode_scratch
from .fitting import check_fit
from .generation import Generation
from .many import Many
from .pages import PAGE_SIZE, pages_for
from .profiling import profile_model
from .runner import Runner
from .session import Session

if TYPE_CHECKING:
    from ..text import ChatTemplate

log = logging.getLogger("flux_vk.engine")

DEFAULT_CONTEXT = 4096
SHARED_KV_BYTES = 64 << 20  # what the caches of all sequences may take together without being asked for


def load(
    path: str | PathLike[str],
    device: Device | int | str | None = None,
    context: int | None = None,
    kv_type: str = "f16",
    *,
    sequences: int = 8,
    kv_tokens: int | None = None,
    context_shift: bool = False,
    lora: Lora | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Open a GGUF model on a device.

    device: a Device, an index or a name part (default: FLUX_VK_DEVICE, else the best one).
    context: tokens of one sequence; default: the model's own limit, at most 4096.
    kv_type: "f16" or "f32", how keys and values are kept.
    sequences: how many may live at once (threads, sessions); more wait. They share a cache of `kv_tokens`: by default
    room for all their contexts where that takes at most 64 MiB, else for one whole context and a page for each other.
    context_shift: at the end of the context recycle the oldest page (the first 32 tokens stay) instead of stopping.
    lora: adapters that change what the model computes: a path (PEFT folder, .safetensors or GGUF LoRA), "path:scale",
    an Adapter, a pair (path or Adapter, scale), or a list of these, which add up.
    progress: called with (bytes loaded, bytes in all).
    Raises GGUFError, ModelError, TokenizerError for the file, AdapterError for an adapter; OutOfDeviceMemory, with
    needed and free bytes by part, before anything is loaded; VulkanUnavailable, UnknownDevice.
    """
    started = time.perf_counter()
    if kv_type not in ("f16", "f32"):
        raise InputError(f"kv_type is {kv_type!r}; expected 'f16' or 'f32'")
    with open_gguf(path) as file:
        config = read_config(file)
        limits = _limits(config, context, kv_type, sequences, kv_tokens, context_shift)
        loras = read_loras(lora, config)
        plans = plan_lora(config, loras)
        dev = device if isinstance(device, Device) else Device(device)
        limits = replace(limits, max_rows=STEP_ROWS[dev.family])
        parts = memory_needed(
            file, config, limits.kv_tokens, kv_type, limits.max_rows, limits.logit_rows(config.vocab_size)
        )
        logits = 4 * limits.logit_rows(config.vocab_size) * config.vocab_size
        scratch = parts["activations"] - logits + limits.max_rows * lora_row_bytes(plans)
        scratch = max(scratch, decode_scratch(dev, config, limits, scratch // limits.max_rows))
        parts["activations"] = scratch + logits
        if plans:
            parts["adapters"] = lora_bytes(plans)
        check_fit(dev, str(path), parts, limits)
        check_kv_range(dev, config, limits)
        weights = prepare_weights(dev, file, config, context=limits.context)
        weights.lora = prepare_lora(dev, plans)
        runner = Runner(dev, config, weights, limits, scratch=scratch)
        # The three that cost time need nothing of each other: kernels, vocabulary, weights.
        with Background() as background:
            background.start(runner.prepare)
            tokenizer = background.start(lambda: Tokenizer.from_gguf(file))
            template = background.start(lambda: _template(file))
            fill_lora(dev, weights.lora)
            fill_weights(weights, file, background.watched(progress))
    model = Model(dev, config, tokenizer.result(), template.result(), runner, parts)
    model.load_seconds = time.perf_counter() - started
    model.adapters = tuple(loras)
    return model


def _template(file: GGUFFile) -> ChatTemplate | None:
    """The file's chat template; without one, jinja2 is not even imported."""
    if CHAT_TEMPLATE not in file.metadata:
        return None
    from ..text import ChatTemplate

    try:
        return ChatTemplate.from_gguf(file)
    except TokenizerError as error:
        log.debug("no chat template: %s", error)
        return None


def _limits(
    config: ModelConfig, context: int | None, kv_type: str, sequences: int, kv_tokens: int | None, shift: bool
) -> Limits:
    if context is None:
        context = min(config.context_length, DEFAULT_CONTEXT)
    if not 1 <= context <= config.context_length:
        raise InputError(f"context is {context}; expected 1 to {config.context_length}, the model's own limit")
    if sequences < 1:
        raise InputError(f"sequences is {sequences}; expected at least 1")
    if kv_tokens is not None and kv_tokens < context:
        raise InputError(f"kv_tokens is {kv_tokens}; expected at least the context of {context}")
    if shift and context < 3 * PAGE_SIZE:
        raise InputError(f"context is {context}; shifting needs at least {3 * PAGE_SIZE} tokens")
    if kv_tokens is None:
        affordable = SHARED_KV_BYTES // kv_bytes(config, 1, kv_type) * PAGE_SIZE
        least, most = context + PAGE_SIZE * (sequences - 1), pages_for(context) * PAGE_SIZE * sequences
        kv_tokens = max(least, min(most, affordable))
    return Limits(context, kv_tokens, sequences, kv_type, max_rows=max(STEP_ROWS.values()), context_shift=shift)


class Model:
    """An opened model. May be used from several threads: each generation has its own sequence, and the steps of all run
    one after the other on the device, in the order they are submitted. Made by `load`.
    """

    def __init__(
        self, device: Device, config: ModelConfig, tokenizer: Tokenizer, template: ChatTemplate | None,
        runner: Runner, parts: Mapping[str, int],
    ) -> None:  # fmt: skip
        self.device = device
        self.config = config
        self.tokenizer = tokenizer
        self.template = template
        self.load_seconds = 0.0
        self.adapters: tuple[Scaled, ...] = ()
        self._runner: Runner | None = runner
        self._parts = dict(parts)

    @property
    def runner(self) -> Runner:
        """What runs the steps. Raises FluxError after close()."""
        if self._runner is None:
            raise FluxError("the model is closed; load it again")
        return self._runner

    @property
    def context(self) -> int:
        """Tokens one sequence may hold."""
        return self.runner.limits.context

    def memory_plan(self) -> dict[str, int]:
        """Bytes of weights, kv, activations and (where there are any) adapters, as worked out before loading."""
        return dict(self._parts)

    @cached_property
    def grammar_vocabulary(self) -> GrammarVocabulary:
        """The vocabulary as grammars see it, made when first asked for. FluxError where llguidance is not installed."""
        return GrammarVocabulary(self.tokenizer)

    @cached_property
    def breakers(self) -> Callable[[tuple[str, ...]], Breakers]:
        """DRY's sequence breakers of texts; looking through a vocabulary takes a while, so some are kept."""
        return lru_cache(maxsize=16)(partial(find_breakers, self.tokenizer))

    # -- generating -----------------------------------------------------------------------------------------------

    def prompt_ids(self, prompt: str | Seq[int]) -> list[int]:
        """Token ids of a prompt (special tokens in the text are recognised), checked; at least one."""
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt, add_special=True, parse_special=True)
            if len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_id:
                ids = ids[1:]  # a chat template wrote the token that the tokenizer adds too
        else:
            ids = self.checked_ids(prompt)
        if not ids:
            bos = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.eos_id
            if bos is None:
                raise InputError("the prompt is empty and the model has no token to begin with; give some text")
            ids = [bos]
        return self.checked_ids(ids)

    def checked_ids(self, ids: Seq[int]) -> list[int]:
        """The ids as a list. Raises InputError for what is no id of the vocabulary."""
        try:
            found = [index(i) for i in ids]
        except TypeError as error:
            raise InputError(f"token ids: {error}; expected whole numbers, or a text as the prompt") from None
        for i in found:
            if not 0 <= i < self.config.vocab_size:
                raise InputError(f"token id {i} is outside the vocabulary; expected 0 to {self.config.vocab_size - 1}")
        return found

    def start(
        self,
        prompt: str | Seq[int],
        params: SamplingParams | None = None,
        *,
        max_tokens: int | None = None,
        stop: Seq[str] = (),
        session: Session | None = None,
        grammar: Grammar | None = None,
        agents: Swarm | None = None,
        trace: str | PathLike[str] | None = None,
        prompt_progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """Begin a generation: an iterator of Tokens with `text`, `finish_reason` and `timings`.

        max_tokens: None runs until the model ends its text or the context is full. grammar: what the text behind the
        prompt must follow. agents: who votes on every token. trace: a file (JSON lines) that tells of every vote.
        prompt_progress: called after each step of the prompt with (tokens done, tokens in all).
        Raises InputError, GrammarError, ContextFull.
        """
        drawn = params or SamplingParams()
        return Generation(self, prompt, drawn, max_tokens, stop, session, prompt_progress, grammar, agents, trace)

    def start_many(
        self,
        prompts: Seq[str | Seq[int]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        *,
        max_tokens: int | Seq[int | None] | None = None,
        stop: Seq[str] | Seq[Seq[str]] = (),
        grammar: Grammar | None | Seq[Grammar | None] = None,
        agents: Swarm | None | Seq[Swarm | None] = None,
        prompt_progress: Callable[[int, int, int], None] | None = None,
    ) -> Many:
        """Begin a generation for each prompt, decoded together: an iterator of (index, Token). Each writes what it
        would write alone.

        params, max_tokens, stop, grammar, agents: one for all (the same seed too), or a list with one for each prompt;
        params=None draws a seed for each. prompt_progress: called with (index, tokens done, tokens in all). Raises
        InputError, GrammarError, ContextFull.
        """
        return Many(self, prompts, params, max_tokens, stop, prompt_progress, grammar, agents)

    def generate_many(
        self,
        prompts: Seq[str | Seq[int]],
        max_tokens: int | Seq[int | None] | None = None,
        *,
        stop: Seq[str] | Seq[Seq[str]] = (),
        grammar: Grammar | None | Seq[Grammar | None] = None,
        agents: Swarm | None | Seq[Swarm | None] = None,
        **sampling: Any,
    ) -> list[str]:
        """The texts behind several prompts, decoded together. `sampling`: the fields of SamplingParams.

        Without a seed each prompt gets one of its own.
        """
        params = [SamplingParams(**sampling) for _ in prompts]
        many = self.start_many(prompts, params, max_tokens=max_tokens, stop=stop, grammar=grammar, agents=agents)
        for _ in many:
            pass
        return many.texts

    def generate(
        self, prompt: str | Seq[int], max_tokens: int | None = None, *, stop: Seq[str] = (),
        grammar: Grammar | None = None, agents: Swarm | None = None, trace: str | PathLike[str] | None = None,
        **sampling: Any,
    ) -> Iterator[str]:  # fmt: skip
        """Pieces of text, as they come. `sampling`: the fields of SamplingParams (temperature, top_k, seed, ...)."""
        drawn = SamplingParams(**sampling)
        generation = self.start(
            prompt, drawn, max_tokens=max_tokens, stop=stop, grammar=grammar, agents=agents, trace=trace
        )
        return (token.piece for token in generation if token.piece)

    def session(self) -> Session:
        """A sequence kept over several generations; pass it as `session=` to start()."""
        return Session(self)

    # -- asking ---------------------------------------------------------------------------------------------------

    def logits(self, ids: Seq[int]) -> npt.NDArray[np.float32]:
        """Logits after every token: float32 [len(ids), vocabulary]. Raises InputError, ContextFull."""
        ids = self.checked_ids(ids)
        self.check_room(len(ids))
        out = np.empty((len(ids), self.config.vocab_size), np.float32)
        for first, rows in self._logit_chunks(ids):
            out[first : first + len(rows)] = rows
        return out

    def perplexity(self, ids: Seq[int]) -> float:
        """exp of the mean negative log-likelihood (natural log) of ids[1:], each given all before it.

        Longer texts than the context are cut into windows of `context` tokens; a window's first token is not scored.
        """
        ids = self.checked_ids(ids)
        if len(ids) < 2:
            raise InputError(f"perplexity of {len(ids)} tokens; expected at least 2")
        total, count = 0.0, 0
        for start in range(0, len(ids) - 1, self.context):
            window = ids[start : start + self.context]
            for first, rows in self._logit_chunks(window):
                targets = window[first + 1 : first + 1 + len(rows)]
                x = rows[: len(targets)].astype(np.float64)
                top = x.max(axis=1, keepdims=True) if len(targets) else x
                lse = np.log(np.exp(x - top).sum(axis=1)) + top[:, 0] if len(targets) else np.zeros(0)
                total += float((lse - x[np.arange(len(targets)), targets]).sum())
                count += len(targets)
        return float(np.exp(total / count))

    def check_room(self, n: int) -> None:
        """Raises ContextFull where a sequence of n tokens is longer than the context (and may not shift)."""
        if n > self.context and not self.runner.limits.context_shift:
            raise ContextFull(f"{n} tokens asked for, the context holds {self.context}; load with a larger context")

    def _logit_chunks(self, ids: list[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        runner = self.runner
        sequence = runner.open_sequence()
        try:
            first = 0
            while first < len(ids):
                n = runner.chunk(sequence, len(ids) - first, runner.max_logits)
                rows = runner.prefill(sequence, ids[first : first + n], logits=True)
                assert rows is not None
                yield first, rows
                first += n
        finally:
            runner.close_sequence(sequence)

    def profile(
        self, prompt_tokens: int = 64, repeat: int = 3, params: SamplingParams | None = None,
        agents: Swarm | None = None,
    ) -> tuple[Profile, Profile]:  # fmt: skip
        """Device times by kernel: of a prefill step of that many tokens, and of a decode step behind it with what
        params and agents make of it."""
        return profile_model(self, prompt_tokens, repeat, params, agents)

    # -- ending ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for running steps and give all memory back. The model cannot be used afterwards."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.config.arch} {self.config.name!r} on {self.device.name})"


__all__ = ["Model", "Session", "check_fit", "load"]
