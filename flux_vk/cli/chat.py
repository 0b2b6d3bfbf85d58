"""The conversation in the terminal: a prompt, answers as they are written, a few commands.

Works the same with lines from a pipe. Not for: single prompts (once.py).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flux_vk.cli.common import EXIT_INTERRUPTED
from flux_vk.cli.once import answer
from flux_vk.cli.options import RunOptions
from flux_vk.cli.prompt import chat_ids, opening, template_of
from flux_vk.cli.terminal import Terminal, summary
from flux_vk.errors import ContextFull, InputError

if TYPE_CHECKING:
    from flux_vk.cli.steering import Steering
    from flux_vk.decode import SamplingParams
    from flux_vk.engine.generation import Token
    from flux_vk.engine.model import Model

HELP = """\
/help   this list
/reset  forget the conversation and begin afresh
/exit   leave (so does Ctrl-D)
A line that ends in \\ goes on in the next one. Ctrl-C ends the answer that is being written."""
PROMPT = "> "


class Chat:
    """A conversation with a model. Without a chat template every line is continued as text, each on its own."""

    def __init__(
        self, options: RunOptions, model: Model, terminal: Terminal, params: SamplingParams, steering: Steering
    ) -> None:
        self._options = options
        self._model = model
        self._terminal = terminal
        self._params = params
        self._steering = steering
        as_chat = options.chat if options.chat is not None else model.template is not None
        self._template = template_of(model, options.model) if as_chat else None
        self._messages = opening(options)
        self._session = model.session()
        self._typed = sys.stdin.isatty()

    def run(self) -> int:
        """Until /exit or the end of input. Returns the exit code."""
        self._greet()
        code = 0
        with self._session:
            while (line := self._read()) is not None:
                line = line.strip()
                if line in ("/exit", "/quit"):
                    break
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    code = self._turn(line)
                    if code and not self._typed:
                        return code
        return 0 if self._typed else code

    def _greet(self) -> None:
        if not self._typed:
            return
        try:
            import readline  # noqa: F401  # input() gets editing and history from it
        except ImportError:
            pass  # a Python built without it: plain lines
        name = self._model.config.name or self._options.model.name
        kind = "a chat" if self._template else "no chat template: every line is continued as text"
        self._terminal.note(f"{name} on {self._model.device.name} ({kind}). /help lists what can be typed.")

    def _read(self) -> str | None:
        """The next message, or None at the end of input. Ctrl-C throws a typed line away."""
        lines: list[str] = []
        while True:
            try:
                line = input(PROMPT if not lines else ". ") if self._typed else sys.stdin.readline()
            except EOFError:
                self._terminal.note("")
                return None
            except KeyboardInterrupt:
                if not self._typed:
                    raise
                self._terminal.note("\n(/exit or Ctrl-D leaves)")
                lines.clear()
                continue
            if not self._typed and not line:
                return "\n".join(lines) if lines else None
            line = line.rstrip("\r\n")
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _command(self, line: str) -> None:
        if line == "/help":
            self._terminal.report(HELP)
        elif line == "/reset":
            self._messages = opening(self._options)
            self._terminal.note("(a new conversation)")
        else:
            self._terminal.report(f"{line.split()[0]} is not a command; /help lists them")

    def _turn(self, line: str) -> int:
        """Answer one message; a failure that belongs to this message is told and forgotten."""
        terminal = self._terminal
        asked = [*self._messages, {"role": "user", "content": line}]

        def show(token: Token) -> None:
            terminal.write(token.piece)

        try:
            prompt: str | list[int] = line
            if self._template is not None:
                prompt = chat_ids(self._model, self._template, asked)
            with terminal.whole_lines():
                generation = answer(
                    self._options, self._model, terminal, prompt, self._params, show, self._steering, self._session
                )
        except ContextFull as error:
            terminal.report(f"flux_vk: {error} (/reset begins afresh)")
            return error.exit_code
        except InputError as error:
            terminal.report(f"flux_vk: {error}")
            return error.exit_code
        terminal.end_line()
        self._messages = [*asked, {"role": "assistant", "content": generation.text}]
        terminal.note(summary(generation, self._model.device.name, seed=False))
        for note in self._steering.notes(generation):
            terminal.note(note)
        if generation.finish_reason == "context":
            terminal.note("(the context is full: /reset begins afresh; -c or --context-shift make it last longer)")
        cancelled = generation.finish_reason == "cancelled"
        return EXIT_INTERRUPTED if cancelled and not self._typed else 0
