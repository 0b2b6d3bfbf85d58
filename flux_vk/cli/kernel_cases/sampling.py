"""The sampling kernels one by one, over a model's vocabulary, with the parameters that `flux_vk.run` samples with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flux_vk.cli.bench_cases import MAX_ELEMENTS, Array, Case, Check, Prepared, Sizes, dispatch, same
from flux_vk.decode import Breakers, SamplingParams
from flux_vk.decode.params import MAX_BIAS
from flux_vk.decode.sampling import ordered_width
from flux_vk.decode.state import TOP_WORDS
from flux_vk.decode.words import pack_order, pack_params
from flux_vk.gpu import Chain, kernels
from flux_vk.gpu.reference import reference
from flux_vk.gpu.reference.sampling_order import Changes, change_words

if TYPE_CHECKING:
    from flux_vk.gpu import Device

HISTORY, RING = 1024, 256
MOST_ROWS = 8
PARAMS: dict[str, dict[str, Any]] = {
    "sample_stats": {},
    "sample_adjust": {"repeat_penalty": 1.1, "repeat_last_n": 64},
    "sample_mass": {"temperature": 1.0, "top_k": 0, "top_p": 0.95, "min_p": 0.0},
    "sample_pick": {},
    "sample_top": {"logprobs": 5},
    "sample_commit": {},
    "sample_repeats": {"dry_multiplier": 0.8},
    "sample_ordered": {"xtc_probability": 1.0, "typical_p": 0.9, "dynatemp_range": 0.3},
}
"""Kernel -> what its slots ask for: the defaults, or what makes the kernel work at all."""
Arrays = Mapping[str, Array]
Outputs = dict[str, tuple[tuple[int, ...], str]]


def cases(sizes: Sizes, rows: list[int], types: list[str], context: int) -> Iterator[Case]:
    """Every kernel for as many rows as streams are decoded together, at most 8."""
    for r in dict.fromkeys(min(r, MOST_ROWS) for r in rows):
        for kernel in PARAMS:
            if r * sizes.vocab <= MAX_ELEMENTS:
                yield Case(kernel, f"{r} x {sizes.vocab}", partial(_make, kernel, r, sizes.vocab))


def _make(kernel: str, r: int, vocab: int, device: Device, rng: np.random.Generator) -> Prepared:
    blocks = -(-vocab // 4096) * 64
    params = [pack_params(SamplingParams(seed=i, **PARAMS[kernel])) for i in range(r)]
    given: dict[str, Array] = {
        "logits": (3 * rng.standard_normal((r, vocab))).astype(np.float32),
        "row_slot": np.arange(r, dtype=np.uint32),
        "params": np.stack(params),
    }
    history: dict[str, Array] = {
        "history": rng.integers(0, vocab, (r, HISTORY)).astype(np.uint32),
        "hist_count": np.full(r, HISTORY, np.uint32),
    }
    position = {"row_pos": np.arange(100, 100 + r, dtype=np.uint32)}
    if kernel in ("sample_repeats", "sample_ordered"):
        return _complete(kernel, device, given, history, position)
    if kernel == "sample_stats":
        return _prepared(kernel, device, given, {"maxima": ((r, blocks), "u32")}, _simple(kernel, given, "maxima"))
    if kernel in ("sample_adjust", "sample_commit"):
        bias: dict[str, Array] = {"bias_id": np.zeros((r, MAX_BIAS), np.uint32)}
        bias["bias"] = np.zeros((r, MAX_BIAS), np.float32)
        out: Outputs = {"saved": ((r, MAX_BIAS + HISTORY, 2), "u32")}
        adjust = {**given, **bias, **history}
        prepared = _prepared("sample_adjust", device, adjust, out, lambda: _adjusted(adjust))
        return prepared if kernel == "sample_adjust" else _commit(device, rng, given, history, position, prepared)
    given["maxima"], given["sums"] = reference("sample_stats")(
        given["logits"], given["row_slot"], np.where(np.arange(16) == 10, np.uint32(1), given["params"]), has_sums=1
    )
    given["sums"] = given["sums"].astype(np.float32)
    if kernel == "sample_top":
        outputs: Outputs = {"top": ((r, TOP_WORDS), "u32")}
        return _prepared(kernel, device, given, outputs, partial(_top, given), nmse=1e-10)
    del given["sums"]
    if kernel == "sample_mass":
        given["mass"] = np.zeros((r, 256, 2), np.uint32)
        return _prepared(kernel, device, given, {}, _simple(kernel, given, "mass", _joined))
    given |= position
    return _prepared(kernel, device, given, {"picked": ((r, 2), "u32")}, _simple(kernel, given, "picked"))


def _prepared(
    kernel: str, device: Device, given: Arrays, outputs: Outputs, checks: Callable[[], list[Check]],
    scalars: Mapping[str, Any] = {}, nmse: float | None = None,
) -> Prepared:  # fmt: skip
    buffers = {name: device.array(a) for name, a in given.items()}
    buffers |= {name: device.filled(shape, dtype, 0xFF) for name, (shape, dtype) in outputs.items()}
    limit = kernels.contract(kernel).nmse if nmse is None else nmse
    return Prepared(buffers, partial(dispatch, kernel, scalars), checks, limit)


def _simple(
    kernel: str, given: Arrays, output: str, part: Callable[[Array], Array] = same
) -> Callable[[], list[Check]]:
    return lambda: [(output, part, reference(kernel)(**given))]


def _joined(mass: Array) -> Array:
    """The kernel's pairs of words as 64-bit numbers."""
    return mass[..., 0].astype(np.uint64) | mass[..., 1].astype(np.uint64) << np.uint64(32)


def _adjusted(given: Arrays) -> list[Check]:
    return [("logits", same, reference("sample_adjust")(**given)[0])]


def _top(given: Arrays) -> list[Check]:
    """Identifiers exactly, log-probabilities within the tolerance; what lies behind the wanted ones does not count."""
    want = reference("sample_top")(**given)
    end = 2 + 2 * int(PARAMS["sample_top"]["logprobs"])

    def ids(top: Array) -> Array:
        return top[:, 0:end:2].copy()

    def logprobs(top: Array) -> Array:
        return top[:, 1:end:2].copy().view(np.float32)

    return [("top", ids, ids(want)), ("top", logprobs, logprobs(want))]


def _commit(
    device: Device, rng: np.random.Generator, given: Arrays, history: Arrays, position: Arrays, adjust: Prepared
) -> Prepared:
    """Behind a sample_adjust, whose saved logits it puts back."""
    before = Chain(device, name="sample_adjust")
    adjust.append(before, adjust.buffers)
    before.run()
    r, vocab = given["logits"].shape
    own: dict[str, Array] = {
        "row_slot": given["row_slot"], "params": given["params"], **position, **history,
        "picked": np.stack([rng.integers(0, vocab, r), np.zeros(r)], 1).astype(np.uint32),
        "slot_token": np.zeros(r, np.uint32), "slot_pos": np.zeros(r, np.uint32),
        "ring": np.zeros((r, RING), np.uint32), "lp_ring": np.zeros((r, RING, TOP_WORDS), np.uint32),
        "status": np.zeros(r, np.uint32),
    }  # fmt: skip

    def checks() -> list[Check]:
        tokens, positions, past, count, ring = reference("sample_commit")(**own)
        lists = {"slot_token": [tokens[i] for i in range(r)], "slot_pos": [positions[i] for i in range(r)]}
        found: list[Check] = [(name, same, np.array(v, np.uint32)) for name, v in lists.items()]
        found += [("history", same, past), ("hist_count", same, count), ("ring", same, ring)]
        return [*found, ("logits", same, given["logits"])]

    made = _prepared("sample_commit", device, own, {}, checks, {"B": MAX_BIAS})
    made.buffers |= {name: adjust.buffers[name] for name in ("logits", "saved")}
    return made


def _complete(kernel: str, device: Device, given: Arrays, history: Arrays, position: Arrays) -> Prepared:
    """The kernels of complete chains: a short list behind the default top-k, and a history that repeats itself."""
    r, vocab = given["logits"].shape
    params = [SamplingParams(seed=i, **PARAMS[kernel]) for i in range(r)]
    order: dict[str, Array] = {"row_slot": given["row_slot"], "order": np.stack([pack_order(p) for p in params])}
    if kernel == "sample_repeats":
        past = {**history, "history": np.tile(history["history"][:, :128], HISTORY // 128)}
        none = [Breakers()] * r
        bits: dict[str, Array] = {"breaker_bits": np.stack([b.bits(vocab) for b in none])}
        bits["breakers"] = np.stack([b.words() for b in none])
        repeats: dict[str, Array] = {"logits": given["logits"], **order, **bits, **past}
        out: Outputs = {"changes": ((r, 2, HISTORY + 1, 2), "u32")}
        return _prepared(
            kernel, device, repeats, out, lambda: [("logits", same, reference(kernel)(**repeats)[0])], {"WG": 128}
        )
    changes: Changes = [({}, {})] * r
    ordered: dict[str, Array] = {**given, **position, **order, "picked": np.zeros((r, 2), np.uint32)}
    ordered["carry"] = np.zeros((r, RING, 4), np.float32)
    maxima = reference("sample_stats")(given["logits"], given["row_slot"], given["params"])
    held: dict[str, Array] = {**ordered, "maxima": maxima, "changes": change_words(changes, HISTORY)}

    def checks() -> list[Check]:
        return [("picked", same, reference(kernel)(**{**ordered, "changes": changes})[0])]

    return _prepared(kernel, device, held, {}, checks, {"WG": ordered_width(device.family, vocab)})
