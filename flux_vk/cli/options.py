"""The options of `python -m flux_vk.run`: parsed, checked, and frozen. Not for: acting on them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_vk.cli.agent_options import AgentOptions, add_agent_options, agent_options
from flux_vk.cli.common import Parser, text, whole
from flux_vk.cli.grammar_options import GrammarFile, add_grammar_options, grammar_file
from flux_vk.cli.sampling_options import add_sampling_options, sampling_of
from flux_vk.errors import InputError

DEMO = "flux-demo-5m-Q8_0.gguf"
DEFAULT_TOKENS = 256
MAX_PROMPT_BYTES = 16 << 20


@dataclass(frozen=True)
class RunOptions:
    """What was asked for. `sampling` holds only what was given; the rest are SamplingParams' defaults."""

    model: Path
    prompt: str | None = None
    file: str | None = None
    max_tokens: int | None = None
    context: int | None = None
    kv_type: str = "f16"
    context_shift: bool = False
    device: str | None = None
    chat: bool | None = None
    system: str | None = None
    stop: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False
    profile: bool = False
    debug: bool = False
    grammar: GrammarFile | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    agents: AgentOptions = AgentOptions()
    lora: tuple[str, ...] = ()

    @property
    def interactive(self) -> bool:
        return self.prompt is None and self.file is None


def demo_model() -> Path:
    """The model that ships with the package. InputError where this installation is without it."""
    package = Path(__file__).resolve().parent.parent
    for path in (package / "demo" / DEMO, package.parent / "models" / DEMO):
        if path.is_file():
            return path
    raise InputError(f"no MODEL was named, and the demo model {DEMO} is not in this installation; name a GGUF file")


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    """Read the command line. Exits with code 2 and one line on stderr where it makes no sense."""
    parser = _parser()
    a = parser.parse_args(argv)
    interactive = a.prompt is None and a.file is None
    if a.json and interactive:
        parser.error("--json prints one answer: give a prompt with -p TEXT or -f FILE")
    if a.profile and interactive:
        parser.error("--profile measures one answer: give a prompt with -p TEXT or -f FILE")
    if a.logprobs is not None and interactive:
        parser.error("--logprobs belongs to one answer: give a prompt with -p TEXT or -f FILE")
    if a.mirostat and a.samplers is not None:
        parser.error("--mirostat takes no --samplers: only bias and temperature act beside it")
    if a.system is not None and (a.chat is False or (a.chat is None and not interactive)):
        parser.error("--system belongs to a chat: add --chat")
    if a.trace is not None and interactive:
        parser.error("--trace tells of one answer: give a prompt with -p TEXT or -f FILE")
    try:
        model = a.model if a.model is not None else demo_model()
    except InputError as error:
        parser.error(str(error))
    tokens = a.max_tokens if a.max_tokens is not None or interactive else DEFAULT_TOKENS
    return RunOptions(
        model=model, prompt=a.prompt, file=a.file, max_tokens=tokens, context=a.context, kv_type=a.kv_type,
        context_shift=a.context_shift, device=a.device, chat=a.chat, system=a.system, stop=tuple(a.stop or ()),
        json=a.json, quiet=a.quiet, profile=a.profile, debug=a.debug, grammar=grammar_file(a),
        sampling=sampling_of(a), agents=agent_options(parser, a), lora=tuple(a.lora or ()),
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m flux_vk.run",
        description="Write text with a GGUF model on a Vulkan device. Without -p or -f: a chat in the terminal.",
        epilog="examples:\n"
        "  python -m flux_vk.run -p 'It was in July'             the demo model goes on with a text\n"
        "  python -m flux_vk.run model.gguf                      chat; /help lists what can be typed\n"
        "  python -m flux_vk.run model.gguf --chat -p 'Why?'     one answer\n"
        "  python -m flux_vk.run model.gguf -f prompt.txt --json one JSON object\n"
        "exit codes: 0 done, 1 a failure, 2 something wrong with options or files, 130 Ctrl-C",
    )
    p.add_argument("model", nargs="?", type=_path, metavar="MODEL", help="GGUF file; default: the demo model")
    p.add_argument(
        "--lora", action="append", type=text("a path"), metavar="PATH[:SCALE]",
        help="a LoRA adapter (PEFT folder, .safetensors or GGUF) and how much of it, default 1; repeatable",
    )  # fmt: skip
    what = p.add_argument_group("prompt").add_mutually_exclusive_group()
    what.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt")
    what.add_argument(
        "-f", "--file", type=text("a path, or - for standard input"), help="prompt from a file (- = standard input); "
        "one newline at its end is not part of the prompt",
    )  # fmt: skip
    g = p.add_argument_group("generation")
    g.add_argument(
        "-n", "--max-tokens", type=whole(1), metavar="N",
        help=f"tokens to write at most; default {DEFAULT_TOKENS} with -p and -f, else until the model ends",
    )  # fmt: skip
    g.add_argument("-c", "--context", type=whole(1), metavar="N", help="tokens of context; default: up to 4096")
    g.add_argument("--context-shift", action="store_true", help="at its end recycle the oldest page, go on")
    g.add_argument("--kv-type", choices=("f16", "f32"), default="f16", help="type of the key/value cache")
    g.add_argument("--stop", action="append", type=text("a text"), metavar="TEXT", help="end before this; repeatable")
    g.add_argument("--device", type=text("an index or part of a name"), help="index or name part; see flux_vk.info")
    add_sampling_options(p.add_argument_group("sampling"))
    add_grammar_options(p)
    add_agent_options(p)
    c = p.add_argument_group("chat")
    c.add_argument(
        "--chat", action=argparse.BooleanOptionalAction, default=None,
        help="use the model's chat template; default: only without -p and -f, where the file has one",
    )  # fmt: skip
    c.add_argument("--system", metavar="TEXT", help="the system message of a chat")
    o = p.add_argument_group("output")
    o.add_argument("--json", action="store_true", help="one JSON object: text, tokens, figures")
    o.add_argument("--logprobs", type=whole(1, 20), metavar="N", help="log-probabilities, with N alternatives")
    o.add_argument("-q", "--quiet", action="store_true", help="only the text: no progress, no figures")
    o.add_argument("--profile", action="store_true", help="afterwards, device times by kernel on stderr")
    o.add_argument("--debug", action="store_true", help="debug log, and tracebacks with errors")
    return p


def _path(value: str) -> Path:
    if not value:
        raise argparse.ArgumentTypeError("found an empty path, expected a GGUF file")
    return Path(value)
