"""`python -m flux_vk.run [MODEL] -p TEXT`: text from a GGUF model, one answer or a chat. See --help.

Not for library use: that is `flux_vk.load`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flux_vk.cli.common import guarded
from flux_vk.cli.options import RunOptions, parse


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code; exits by itself where options make no sense."""
    options = parse(argv)
    return guarded(lambda: run(options), options.debug)


def run(options: RunOptions) -> int:
    """Read the prompt, load the model, answer."""
    from flux_vk.cli.prompt import read_prompt
    from flux_vk.cli.steering import Steering
    from flux_vk.cli.terminal import Terminal
    from flux_vk.decode import SamplingParams
    from flux_vk.logs import setup_logging

    setup_logging("debug" if options.debug else None)
    terminal = Terminal(options.quiet)
    prompt = None if options.interactive else read_prompt(options)
    params = SamplingParams(**options.sampling)
    steering = Steering.of(options)
    from flux_vk.engine.model import load

    with terminal.progress(f"Loading {options.model.name}", "bytes") as progress:
        model = load(
            options.model, options.device, options.context, options.kv_type, context_shift=options.context_shift,
            sequences=1, lora=options.lora or None, progress=progress,
        )  # fmt: skip
    with model:
        if prompt is not None:
            from flux_vk.cli.once import run_once

            return run_once(options, model, terminal, prompt, params, steering)
        from flux_vk.cli.chat import Chat

        return Chat(options, model, terminal, params, steering).run()


if __name__ == "__main__":
    sys.exit(main())
