"""The options that say how tokens are drawn, for every command that draws some. Not for: drawing (flux_vk.decode)."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from flux_vk.cli.common import number, text, whole
from flux_vk.decode.order import sampler_names
from flux_vk.errors import InputError

_FIELDS = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "frequency_penalty",
    "presence_penalty", "seed", "logprobs", "samplers", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dynatemp_range", "dynatemp_exponent",
    "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay",
)  # fmt: skip
_BIAS = re.compile(r"(\d+)([+-])(.+)")
_MOST = 2**31 - 1


def add_sampling_options(s: argparse._ArgumentGroup) -> None:
    """The options of flux_vk.SamplingParams, but for logprobs."""
    s.add_argument("-t", "--temperature", type=number(0, 100), metavar="T", help="0 = most likely token; default 0.7")
    s.add_argument("--top-k", type=whole(0, _MOST), metavar="K", help="0 = off; default 40")
    s.add_argument("--top-p", type=number(0, 1), metavar="P", help="1 = off; default 0.95")
    s.add_argument("--min-p", type=number(0, 1), metavar="P", help="0 = off; default 0.05")
    s.add_argument(
        "--typical", dest="typical_p", type=number(0, 1), metavar="P", help="locally typical; default 1 = off"
    )
    s.add_argument(
        "--top-n-sigma", type=number(-1e6, 1e6), metavar="N",
        help="logits at most N standard deviations below the best; default -1 = off",
    )  # fmt: skip
    s.add_argument("--xtc-probability", type=number(0, 1), metavar="P", help="how often XTC acts; default 0 = off")
    s.add_argument(
        "--xtc-threshold", type=number(0, 1), metavar="P", help="XTC leaves the least likely above; default 0.1"
    )
    s.add_argument("--repeat-penalty", type=number(1e-6, 1e6), metavar="X", help="1 = off; default 1")
    s.add_argument(
        "--repeat-last-n", type=whole(-1, _MOST), metavar="N", help="tokens penalties see; -1 = all kept; default 64"
    )
    s.add_argument("--frequency-penalty", type=number(-1e6, 1e6), metavar="X", help="0 = off; default 0")
    s.add_argument("--presence-penalty", type=number(-1e6, 1e6), metavar="X", help="0 = off; default 0")
    s.add_argument("--dry-multiplier", type=number(0, 1e6), metavar="X", help="penalty of repetitions; default 0 = off")
    s.add_argument("--dry-base", type=number(0, 1e6), metavar="X", help="its growth with every token; default 1.75")
    s.add_argument(
        "--dry-allowed-length", type=whole(0, _MOST), metavar="N", help="repeated tokens that are free; default 2"
    )
    s.add_argument(
        "--dry-penalty-last-n", type=whole(-1, _MOST), metavar="N", help="tokens DRY sees; -1 = all kept, the default"
    )
    s.add_argument(
        "--dry-sequence-breaker", action="append", type=text("a text"), metavar="TEXT", help="repetitions end at this; "
        'repeatable, in place of newline : " *; none: nothing breaks them',
    )  # fmt: skip
    s.add_argument(
        "--dynatemp-range", type=number(0, 1e6), metavar="X",
        help="temperature +- X, by the entropy; default 0 = off",
    )  # fmt: skip
    s.add_argument(
        "--dynatemp-exp", dest="dynatemp_exponent", type=number(0, 1e6), metavar="X", help="its exponent; default 1"
    )
    s.add_argument("--mirostat", type=whole(0, 2), metavar="V", help="1 or 2; needs no --samplers; default 0 = off")
    s.add_argument(
        "--mirostat-lr", dest="mirostat_eta", type=number(0, 1e6), metavar="X", help="learning rate; default 0.1"
    )
    s.add_argument(
        "--mirostat-ent", dest="mirostat_tau", type=number(0, 1e6), metavar="X", help="surprise in bits; default 5"
    )
    s.add_argument(
        "--adaptive-target", type=number(-1e6, 1), metavar="P",
        help="prefer tokens of about this probability; default -1 = off",
    )  # fmt: skip
    s.add_argument("--adaptive-decay", type=number(0, 0.99), metavar="X", help="how long it remembers; default 0.9")
    s.add_argument(
        "--logit-bias", action="append", type=_bias, metavar="TOKEN(+|-)X",
        help="add to a token's logit, as 15043+1 or 15043-inf; repeatable",
    )  # fmt: skip
    s.add_argument(
        "--samplers", type=_samplers, metavar="NAMES", help="which, in which order, ; between or as letters; default "
        "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature, or edskypmxt",
    )  # fmt: skip
    s.add_argument("--seed", type=whole(0, 2**64 - 1), metavar="N", help="same seed, same tokens")


def sampling_of(a: argparse.Namespace) -> dict[str, Any]:
    """What was given, as the fields of SamplingParams."""
    given = {name: getattr(a, name) for name in _FIELDS if getattr(a, name, None) is not None}
    if a.logit_bias is not None:
        given["logit_bias"] = dict(a.logit_bias)
    if a.dry_sequence_breaker is not None:
        texts = a.dry_sequence_breaker
        given["dry_sequence_breakers"] = () if "none" in texts else tuple(texts)
    return given


def _bias(value: str) -> tuple[int, float]:
    match = _BIAS.fullmatch(value)
    try:
        bias = float(match[2] + match[3]) if match else math.nan
    except ValueError:
        bias = math.nan
    if match is None or math.isnan(bias) or bias == math.inf:
        raise argparse.ArgumentTypeError(f"found {value!r}, expected a token id and a number, as 15043+1 or 15043-inf")
    return int(match[1]), bias


def _samplers(value: str) -> str:
    try:
        sampler_names(value)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value
