"""Every environment variable that flux_vk reads, typed and explained, in this one place.

Not for: options of the command lines or arguments of the library (those win over the variables here).
docs/environment.md is written from this module: `python -m flux_vk.settings > docs/environment.md`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from flux_vk.errors import InputError

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

FUSIONS = ("norm", "act", "attention", "head")
PREFILL_WORDS = ("auto", "exact", "f32", "f16", "coopmat")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Variable(Generic[T_co]):
    """One environment variable: its name, the default in words, what it does, and how its text is read.

    `parse` gets the variable's text ("" when unset) and the whole environment; it raises InputError on a
    value it cannot read.
    """

    name: str
    default: str
    doc: str
    parse: Callable[[str, Mapping[str, str]], T_co]
    used_by: str = "run time"


def _text(text: str, env: Mapping[str, str]) -> str | None:
    return text.strip() or None


def _path(text: str, env: Mapping[str, str]) -> Path | None:
    return Path(text).expanduser() if text.strip() else None


def _bad(name: str, text: str, expected: str) -> InputError:
    return InputError(f"{name}={text!r}: expected {expected}; correct or unset it")


def _flag(name: str) -> Callable[[str, Mapping[str, str]], bool]:
    def parse(text: str, env: Mapping[str, str]) -> bool:
        word = text.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise _bad(name, text, f"one of {', '.join((*_TRUE, *_FALSE[1:]))}")

    return parse


def _choice(name: str, words: tuple[str, ...]) -> Callable[[str, Mapping[str, str]], str | None]:
    def parse(text: str, env: Mapping[str, str]) -> str | None:
        word = text.strip().lower()
        if word and word not in words:
            raise _bad(name, text, f"one of {', '.join(words)}")
        return word or None

    return parse


def _integer(name: str) -> Callable[[str, Mapping[str, str]], int | None]:
    def parse(text: str, env: Mapping[str, str]) -> int | None:
        if not text.strip():
            return None
        try:
            return int(text)
        except ValueError:
            raise _bad(name, text, "an integer") from None

    return parse


def _steps_ahead(text: str, env: Mapping[str, str]) -> int | None:
    word = text.strip().lower()
    if word in ("", "auto"):
        return None
    if word not in tuple("12345678"):
        raise _bad("FLUX_VK_STEPS_AHEAD", text, "auto or 1 to 8")
    return int(word)


def _log_level(text: str, env: Mapping[str, str]) -> str:
    word = text.strip().lower() or "warning"
    if word not in LOG_LEVELS:
        raise _bad("FLUX_VK_LOG", text, f"one of {', '.join(LOG_LEVELS)}")
    return word


def _cache_dir(text: str, env: Mapping[str, str]) -> Path:
    if text.strip():
        return Path(text).expanduser()
    xdg = env.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative XDG_CACHE_HOME is invalid and to be ignored.
    base = Path(xdg) if os.path.isabs(xdg) else Path(env.get("HOME") or "~").expanduser() / ".cache"
    return base / "flux_vk"


def _fusion(text: str, env: Mapping[str, str]) -> tuple[str, ...]:
    words = [word.strip() for word in text.lower().split(",") if word.strip()]
    if words in ([], ["all"]):
        return FUSIONS
    if words == ["none"]:
        return ()
    if not set(words) <= set(FUSIONS):
        raise _bad("FLUX_VK_FUSION", text, f"all, none, or some of {', '.join(FUSIONS)} with commas between")
    return tuple(words)


def _prefill(text: str, env: Mapping[str, str]) -> str:
    return _choice("FLUX_VK_PREFILL", PREFILL_WORDS)(text, env) or "auto"


DEVICE = Variable(
    "FLUX_VK_DEVICE",
    "the best device: discrete before integrated before CPU",
    "The device to use: its index in `python -m flux_vk.info`, or a part of its name (case does not matter). "
    "`--device` and `fx.Device(select=...)` win over it.",
    _text,
)
FAMILY = Variable(
    "FLUX_VK_FAMILY",
    "cpu on CPU drivers, else gpu",
    "Which family of kernel shapes is used: cpu (made for llvmpipe) or gpu. The two differ in the order of sums, so "
    "their results differ in the last bits.",
    _choice("FLUX_VK_FAMILY", ("cpu", "gpu")),
)
INT_DOT = Variable(
    "FLUX_VK_INT_DOT",
    "auto",
    "Whether matrix products may round activations to eight bits and multiply in integers: auto (where the device "
    "does it in hardware and `python -m flux_vk.bench tune` found it faster), on (wherever the device is able), off. "
    "Results differ by up to 1/254 of the largest of every 32 activations.",
    lambda text, env: _choice("FLUX_VK_INT_DOT", ("auto", "on", "off"))(text, env) or "auto",
)
LOG = Variable(
    "FLUX_VK_LOG",
    "warning",
    f"How much is logged to standard error: {', '.join(LOG_LEVELS)}.",
    _log_level,
)
CACHE_DIR = Variable(
    "FLUX_VK_CACHE_DIR",
    "`$XDG_CACHE_HOME/flux_vk`, else `~/.cache/flux_vk`",
    "The folder of the pipeline caches, one file per device and driver. It may be deleted at any time.",
    _cache_dir,
)
NO_CACHE = Variable(
    "FLUX_VK_NO_CACHE",
    "0",
    "1: neither read nor write the folder above.",
    _flag("FLUX_VK_NO_CACHE"),
)
MARKERS = Variable(
    "FLUX_VK_MARKERS",
    "0",
    "1: recorded chains write the number of the step that begins into host-visible memory, so that DeviceLost names "
    "the kernel that was running. Every step then waits for the one before it: slower, for finding a fault only.",
    _flag("FLUX_VK_MARKERS"),
)
FUSION = Variable(
    "FLUX_VK_FUSION",
    "all",
    f"Which passes put several operations of a step into one kernel: all, none, or some of {', '.join(FUSIONS)} with "
    "commas between. Results agree with and without (norm: but for the last bits).",
    _fusion,
)
STEPS_AHEAD = Variable(
    "FLUX_VK_STEPS_AHEAD",
    "auto: 2, and 1 on CPU drivers where the weights are more than 32 MiB",
    "How many decode steps may be in flight at once, 1 to 8. It changes speed only: more hide more of the CPU's work, "
    "and more are thrown away where a text ends early.",
    _steps_ahead,
)
PREFILL = Variable(
    "FLUX_VK_PREFILL",
    "auto",
    "The arithmetic of a prompt's matrix products: exact (the kernel and the bits of decode), f32 (tiles of 32-bit "
    "floats), f16 (tiles of 16-bit floats, 32-bit sums), coopmat (cooperative matrices, likewise), or auto: exact on "
    "CPU drivers, on a GPU the last of these that it has. All but exact differ from decode in the last bits; f16 and "
    "coopmat round weights and activations to 11 bits.",
    _prefill,
)
REFERENCE = Variable(
    "FLUX_VK_REFERENCE",
    "`../shared/reference` beside the repository",
    "The folder of large reference data (real vocabularies, models with recorded logits). Tests that need "
    "it are skipped, with the reason, where it is not there.",
    _path,
    used_by="tests",
)
TEST_SEED = Variable(
    "FLUX_VK_TEST_SEED",
    "a new one for every run, printed in its first lines",
    "The seed (an integer) of the random data in tests: repeats a run.",
    _integer("FLUX_VK_TEST_SEED"),
    used_by="tests",
)
KOMPUTE_SDIST = Variable(
    "FLUX_VK_KOMPUTE_SDIST",
    "unset: the build fetches it from the package index",
    "A local copy of the source release `kp-0.9.0.tar.gz`, or a folder where it is unpacked: the build then "
    "fetches nothing.",
    _path,
    used_by="build",
)

VARIABLES: tuple[Variable[object], ...] = (
    DEVICE,
    FAMILY,
    INT_DOT,
    LOG,
    CACHE_DIR,
    NO_CACHE,
    MARKERS,
    FUSION,
    STEPS_AHEAD,
    PREFILL,
    REFERENCE,
    TEST_SEED,
    KOMPUTE_SDIST,
)


@dataclass(frozen=True)
class Settings:
    """The environment as flux_vk understands it; one field a variable, described in docs/environment.md."""

    device: str | None
    family: str | None
    int_dot: str
    log: str
    cache_dir: Path
    no_cache: bool
    markers: bool
    fusion: tuple[str, ...]
    steps_ahead: int | None
    prefill: str
    reference: Path | None
    test_seed: int | None
    kompute_sdist: Path | None


def read(variable: Variable[T], environ: Mapping[str, str] | None = None) -> T:
    """One variable alone, afresh. Raises InputError as `settings` does."""
    env: Mapping[str, str] = os.environ if environ is None else environ
    return variable.parse(env.get(variable.name, ""), env)


def settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the variables from `environ` (default: the process's own, afresh on every call).

    Raises InputError naming the variable, the value found and those expected.
    """
    env: Mapping[str, str] = os.environ if environ is None else environ
    return Settings(
        device=read(DEVICE, env),
        family=read(FAMILY, env),
        int_dot=read(INT_DOT, env),
        log=read(LOG, env),
        cache_dir=read(CACHE_DIR, env),
        no_cache=read(NO_CACHE, env),
        markers=read(MARKERS, env),
        fusion=read(FUSION, env),
        steps_ahead=read(STEPS_AHEAD, env),
        prefill=read(PREFILL, env),
        reference=read(REFERENCE, env),
        test_seed=read(TEST_SEED, env),
        kompute_sdist=read(KOMPUTE_SDIST, env),
    )


def environment_page() -> str:
    """The text of docs/environment.md."""
    lines = [
        "# Environment variables",
        "",
        "<!-- Written by `python -m flux_vk.settings > docs/environment.md`; edit flux_vk/settings.py. -->",
        "",
        "Options on a command line and arguments in a program win over these. Flags take 1/true/yes/on or",
        "0/false/no/off. A value that cannot be understood stops the program with one line that names it.",
        "",
        "| variable | used by | default | what it does |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{v.name}` | {v.used_by} | {v.default} | {v.doc} |" for v in VARIABLES]
    lines += [
        "",
        "Two variables of other projects are useful with it: `VK_LOADER_DEBUG=error` makes the Vulkan loader",
        "say why it finds no driver; `LP_NUM_THREADS` sets how many threads Mesa's lavapipe (the CPU device)",
        "runs shaders on.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(environment_page(), end="")
