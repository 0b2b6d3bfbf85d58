"""The options of `python -m flux_vk.bench`, a function for each subcommand. Not for: acting on them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flux_vk.cli import peers
from flux_vk.cli.common import Parser, number, text, whole

MOST_TOKENS = 1 << 20
Commands = Any  # argparse keeps the type of add_subparsers() to itself


def parser() -> argparse.ArgumentParser:
    """All subcommands; `module` of the result names the one of flux_vk.cli that does it."""
    p = Parser(prog="python -m flux_vk.bench", description="Benchmarks. Results are checked before anything is timed.")
    commands = p.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, add in COMMANDS.items():
        add(commands).set_defaults(module=f"flux_vk.cli.bench_{name}")
    return p


def numbers(low: int, high: int = MOST_TOKENS) -> Callable[[str], list[int]]:
    """A reader of "1,64": each number once, in this order; "" and "none" are no numbers."""
    one = whole(low, high)

    def read(value: str) -> list[int]:
        return [] if value in ("", "none") else list(dict.fromkeys(one(part) for part in value.split(",")))

    return read


def _command(commands: Commands, name: str, short: str, description: str, repeat: int, plot: str = "") -> Parser:
    """A subcommand with what all of them have."""
    sub: Parser = commands.add_parser(name, help=short, description=description)
    sub.add_argument("--device", type=text("an index or part of a name"), help="index or name part")
    sub.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the random data; default 0")
    sub.add_argument(
        "--repeat", type=whole(1, 10_000), default=repeat, metavar="N", help=f"samples; default {repeat}"
    )
    sub.add_argument("--format", choices=("md", "csv", "json", "text"), default="text", help="default: text")
    sub.add_argument("--out", type=Path, metavar="FILE", help="write the table there instead of stdout")
    if plot:
        sub.add_argument("--plot", type=Path, metavar="FILE", help=f"{plot} as .png, .svg or .pdf (the plots extra)")
    sub.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
    return sub


def _model(sub: Parser) -> None:
    sub.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="GGUF file; default: the demo model")


def _kv_type(sub: Parser) -> None:
    sub.add_argument("--kv-type", choices=("f16", "f32"), default="f16", help="type of the key/value cache")


def _kernels(commands: Commands) -> Parser:
    k = _command(
        commands, "kernels", "single kernels at model shapes", "Every kernel at the shapes of a model: checked, then "
        "timed over memory that no cache holds, next to the device's own copy and multiply-add rates.", 7, "a roofline",
    )  # fmt: skip
    k.add_argument("--kernel", action="append", default=[], metavar="NAME", help="only this one; repeatable")
    k.add_argument("--type", action="append", metavar="TYPE", help="weights; repeatable; default q4_k q6_k q8_0 q5_0")
    k.add_argument("--rows", type=numbers(1), default=[1, 64], metavar="N,N", help="tokens at once; default 1,64")
    k.add_argument("--shape", default="qwen2.5-0.5b", help="qwen2.5-0.5b (default), llama-3.2-1b, llama-3.1-8b, demo")
    k.add_argument(
        "--context", type=whole(1, MOST_TOKENS), default=512, metavar="N", help="keys in attention; default 512"
    )
    k.add_argument("--warm", action="store_true", help="the same memory every time, so that caches may hold it")
    k.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True, help="compare results first; the default"
    )
    return k


def _model_command(commands: Commands) -> Parser:
    m = _command(
        commands, "model", "a GGUF model", "Time a model: prompts, generation at depths and for several streams, "
        "loading, memory.", 3, "tokens/s against depth and streams",
    )  # fmt: skip
    _model(m)
    m.add_argument("--pp", type=numbers(1), default=[64, 128], metavar="N,N", help="prompt lengths; default 64,128")
    m.add_argument("--tg", type=numbers(2), default=[32], metavar="N,N", help="tokens to generate; default 32")
    m.add_argument(
        "--depth", type=numbers(0), default=[0], metavar="N,N", help="tokens in the cache in front of --tg; default 0"
    )
    m.add_argument(
        "--batch", type=numbers(1, 1024), default=[1], metavar="N,N", help="streams decoded together; default 1"
    )
    m.add_argument(
        "--fill", choices=("random", "prompt"), default="random",
        help="how the cache gets its depth: random keys and values (default), or a real prompt, which takes its time",
    )  # fmt: skip
    m.add_argument("-c", "--context", type=whole(1), metavar="N", help="tokens of context; default: what is needed")
    _kv_type(m)
    m.add_argument("--check", action="store_true", help="greedy tokens must agree in two runs")
    return m


def _scale(commands: Commands) -> Parser:
    s = _command(
        commands, "scale", "speed against context, streams and model", "Tokens a second against tokens in the cache, "
        "streams decoded together and model, next to what the bytes of a step let expect. The cache is filled with "
        "random keys.", 3, "the same",
    )  # fmt: skip
    s.add_argument("model", nargs="*", type=Path, metavar="MODEL", help="GGUF files; default: the demo model")
    deep, wide = [0, 1024, 4096, 16384, 32768], [1, 2, 4, 8, 16, 32]
    s.add_argument(
        "--depth", type=numbers(0), default=deep, metavar="N,N",
        help="with the fewest streams, cut to what the model's context holds; default 0,1024,4096,16384,32768",
    )  # fmt: skip
    s.add_argument(
        "--batch", type=numbers(1, 1024), default=wide, metavar="N,N", help="at the least depth; default 1,2,4,8,16,32"
    )
    s.add_argument("--tg", type=whole(2), default=16, metavar="N", help="tokens to generate; default 16")
    _kv_type(s)
    return s


def _dispatch(commands: Commands) -> Parser:
    d = _command(
        commands, "dispatch", "a dispatch, a barrier, a submit", "What a dispatch, a barrier and a submit cost: chains "
        "of dependent and of independent dispatches, and empty submits.", 15,
    )  # fmt: skip
    d.add_argument("--count", type=whole(10, 20_000), default=1000, metavar="N", help="longest chain; default 1000")
    return d


def _tune(commands: Commands) -> Parser:
    t = _command(
        commands, "tune", "find the fastest kernel shapes for a model", "Measure the shapes of a model's matrix "
        "products on this device and keep the best for later runs. Results stay the same to the last bit.", 9,
    )  # fmt: skip
    _model(t)
    t.add_argument("--forget", action="store_true", help="forget everything measured on this device, and stop")
    return t


def _peers(commands: Commands) -> Parser:
    c = _command(
        commands, "peers", "the same model through llama.cpp", "One GGUF file through flux_vk and through llama.cpp, "
        "in turns, a process for every run.", 3,
    )  # fmt: skip
    _model(c)
    c.add_argument("--pp", type=whole(1), default=64, metavar="N", help="prompt length; default 64")
    c.add_argument("--tg", type=whole(2), default=16, metavar="N", help="tokens to generate; default 16")
    c.add_argument("--peer", choices=peers.NAMES, help="default: the first of these that is here")
    c.add_argument(
        "--threads", type=whole(1), default=os.cpu_count() or 1, metavar="N", help="of the peer; default: all cores"
    )
    c.add_argument(
        "--gpu-layers", type=whole(0), default=99, metavar="N", help="of the peer, where it has a GPU; default 99"
    )
    return c


def _train(commands: Commands) -> Parser:
    t = _command(
        commands, "train", "training steps of a model", "Time training steps of adapters over a model, in turns with "
        "prompts of it: tokens/s, device memory by part and as predicted, time by kernel.", 5,
    )  # fmt: skip
    _model(t)
    t.add_argument("--batch-size", type=whole(1, 1024), default=4, metavar="N", help="sequences of a step; default 4")
    t.add_argument("--length", type=whole(1), default=256, metavar="N", help="tokens of each; default 256")
    t.add_argument("--rank", type=whole(1, 1024), default=32, metavar="N", help="of the adapters; default 32")
    t.add_argument("--target", default="q_proj,v_proj", metavar="NAMES", help="default q_proj,v_proj; or all-linear")
    t.add_argument("--dropout", type=number(0, 0.99), default=0.0, metavar="P", help="default 0")
    t.add_argument("--optim", choices=("adamw", "sgd"), default="adamw", help="default adamw")
    t.add_argument("--recompute", action="store_true", help="compute activations again instead of keeping them")
    t.add_argument(
        "--prompts", action=argparse.BooleanOptionalAction, default=True, help="time prompts too; the default"
    )
    t.add_argument(
        "--profile", action=argparse.BooleanOptionalAction, default=True, help="time every kernel; the default"
    )
    return t


COMMANDS: dict[str, Callable[[Commands], Parser]] = {
    "kernels": _kernels, "model": _model_command, "scale": _scale, "dispatch": _dispatch, "tune": _tune,
    "peers": _peers, "train": _train,
}  # fmt: skip
