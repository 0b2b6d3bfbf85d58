"""The run command with a model that needs no device: text, JSON, figures, Ctrl-C, errors, chat."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flux_vk import run
from flux_vk.cli import once
from flux_vk.errors import ContextFull, DeviceLost, GGUFError, InputError
from tests.cli.fakes import FakeModel, FakeTemplate


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    found = FakeModel()
    loaded: dict[str, Any] = {}

    def load(path: Path, device: Any, context: Any, kv_type: str, **options: Any) -> FakeModel:
        loaded.update(path=path, device=device, context=context, kv_type=kv_type, **options)
        options["progress"](1, 2)
        return found

    monkeypatch.setattr("flux_vk.engine.model.load", load)
    found.loaded = loaded  # type: ignore[attr-defined]
    return found


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_text_and_figures(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["m.gguf", "-p", "Say it", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert out == "Hello world.\n"
    assert err.count("\n") == 1 and "\x1b" not in err
    for part in ("Fake GPU", "prompt 6 tokens, 20.0 tokens/s", "generated 12 tokens, 200 tokens/s", "after 0.25 s"):
        assert part in err
    assert "seed" not in err and model.prompts == ["Say it"] and model.closed


def test_a_drawn_seed_is_told(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    run.main(["m.gguf", "-p", "x"])
    assert f"seed {model.asked[0]['params'].resolved_seed}" in capsys.readouterr().err
    run.main(["m.gguf", "-p", "x", "-t", "0"])
    assert "seed" not in capsys.readouterr().err


def test_quiet(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["m.gguf", "-p", "x", "--quiet", "-n", "5"]) == 0
    assert capsys.readouterr() == ("Hello\n", "")


def test_options_arrive(model: FakeModel) -> None:
    run.main("m.gguf -p x -c 99 --kv-type f32 --device 1 --context-shift --stop a --stop b -t 0 --top-k 7 -q".split())
    loaded = model.loaded  # type: ignore[attr-defined]
    assert loaded["context"] == 99 and loaded["kv_type"] == "f32"
    assert loaded["device"] == "1" and loaded["context_shift"]
    asked = model.asked[0]
    assert asked["stop"] == ("a", "b") and asked["params"].temperature == 0 and asked["params"].top_k == 7


def test_json(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["m.gguf", "-p", "Hi", "--json", "-n", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and json.loads(out) == {
        "text": "Hel", "tokens": [72, 101, 108], "prompt_tokens": [72, 105], "finish_reason": "length",
        "device": "Fake GPU",
        "timings": {"load_s": 0.5, "ttft_s": 0.25, "prompt_per_second": 20.0, "generated_per_second": 200.0},
    }  # fmt: skip


def test_json_with_more(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["m.gguf", "-p", "Hi", "--json", "-n", "1", "--logprobs", "2", "--profile"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["logprobs"] == [{
        "id": 72, "text": "H", "logprob": -0.5,
        "top": [{"id": 72, "text": "H", "logprob": -0.5}, {"id": 63, "text": "?", "logprob": -1.5}],
    }]  # fmt: skip
    assert found["profile"]["decode"] == [{"kernel": "decode"}]
    assert found["profile"]["gaps"]["prefill"] == {"steps_ms": 3.0, "replay_ms": 4.0, "gap_ms": 1.0}
    share = found["profile"]["token"]
    assert (share["token_ms"], share["replay_ms"], share["beside_ms"], share["host_ms"]) == (5.0, 4.0, 1.0, 0.0)


def test_logprobs_and_profile_for_reading(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["m.gguf", "-p", "Hi", "-q", "-n", "2", "--logprobs", "2", "--profile"]) == 0
    out, err = capsys.readouterr()
    assert out == "He\n"
    assert "'H'" in err and "-0.500" in err and "'?' -1.500" in err
    assert "table of prefill" in err and "table of decode" in err
    assert "took 5.000 ms" in err and "4.000 ms (80%)" in err


def test_host_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread's own time from the first token to the last, shared by the tokens behind the first."""
    clock = once.HostClock()
    assert clock.seconds == 0
    for now in (2.0, 2.5, 4.0):
        monkeypatch.setattr(once, "time", SimpleNamespace(thread_time=lambda now=now: now))
        clock.tick()
    assert clock.seconds == 1.0


def test_ctrl_c_keeps_the_text(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    model.on_token = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 4 else None
    before = signal.getsignal(signal.SIGINT)
    assert run.main(["m.gguf", "-p", "x"]) == 130
    out, err = capsys.readouterr()
    assert out == "Hello\n" and "generated 5 tokens" in err and "interrupted" in err
    assert signal.getsignal(signal.SIGINT) is before
    assert run.main(["m.gguf", "-p", "x", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "cancelled"


def test_two_ctrl_c_stop_at_once(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    def twice(i: int) -> None:
        if i == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    model.on_token = twice
    assert run.main(["m.gguf", "-p", "x"]) == 130
    assert "flux_vk: interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GGUFError("m.gguf: broken\nin two lines"), 2),
        (DeviceLost("the device was lost"), 1),
        (MemoryError(), 1),
        (KeyError("a bug"), 1),
    ],
)
def test_errors_are_one_line(
    model: FakeModel, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    model.fail = error
    assert run.main(["m.gguf", "-p", "x"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("flux_vk: ") and err.count("\n") == 1
    assert run.main(["m.gguf", "-p", "x", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_failure_on_the_way_keeps_the_text(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    def lost(i: int) -> None:
        if i == 3:
            raise DeviceLost("the device was lost")

    model.on_token = lost
    assert run.main(["m.gguf", "-p", "x"]) == 1
    assert capsys.readouterr() == ("Hel\n", "flux_vk: the device was lost\n")


def test_a_closed_pipe_is_silent(model: FakeModel, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert run.main(["m.gguf", "-p", "x"]) == 141
    assert capfd.readouterr().err == ""


def test_one_chat_answer(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    model.template = FakeTemplate()
    assert run.main(["m.gguf", "-p", "Why?", "--chat", "--system", "Be brief.", "-q"]) == 0
    assert model.prompts == ["system:Be brief.|user:Why?|assistant:"]


def test_prompts_are_raw_without_chat(model: FakeModel) -> None:
    model.template = FakeTemplate()
    run.main(["m.gguf", "-p", "Why?", "-q"])
    assert model.prompts == ["Why?"]


def test_conversation_from_a_pipe(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model.template = FakeTemplate()
    model.answer = "Yes."
    typed(monkeypatch, "one", "", "two \\", "lines", "/nonsense", "/reset", "three", "/exit", "never")
    assert run.main(["m.gguf", "--system", "S"]) == 0
    assert model.prompts == [
        "system:S|user:one|assistant:",
        "system:S|user:one|assistant:Yes.|user:two \nlines|assistant:",
        "system:S|user:three|assistant:",
    ]
    out, err = capsys.readouterr()
    assert out == "Yes.\n" * 3 and "/nonsense" in err
    assert len(model.sessions) == 1 and model.sessions[0].closed
    assert all(a["session"] is model.sessions[0] and a["max_tokens"] is None for a in model.asked)


def test_lines_are_continued_without_a_template(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "one", "two")
    assert run.main(["m.gguf", "-q"]) == 0
    assert model.prompts == ["one", "two"] and capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [ContextFull("no room"), InputError("not that")])
def test_a_message_that_fails_ends_a_piped_chat(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    model.fail = error
    typed(monkeypatch, "one", "two")
    assert run.main(["m.gguf"]) == error.exit_code  # type: ignore[attr-defined]
    assert model.prompts == ["one"] and str(error) in capsys.readouterr().err


def test_ctrl_c_ends_a_piped_chat(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model.on_token = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 2 else None
    typed(monkeypatch, "one", "two")
    assert run.main(["m.gguf"]) == 130
    assert capsys.readouterr().out == "Hel\n" and model.prompts == ["one"]


def test_a_grammar(model: FakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read before the model is, and handed to every answer."""
    path = tmp_path / "any.gbnf"
    path.write_text("root ::= .*")
    assert run.main(["m.gguf", "-p", "x", "--grammar", str(path)]) == 0
    assert model.asked[0]["grammar"].kind == "gbnf" and "the grammar asks for" not in capsys.readouterr().err
    path.write_text('{"type": "string"}')
    assert run.main(["m.gguf", "-p", "x", "--json-schema", str(path), "-n", "5"]) == 0
    assert model.asked[1]["grammar"].kind == "json-schema"
    assert "only the beginning of what the grammar asks for, 5 tokens: -n N allows more" in capsys.readouterr().err
    for given, message in (("{", "expected a JSON schema"), ('{"type": 1}', str(path))):
        path.write_text(given)
        model.loaded.clear()  # type: ignore[attr-defined]
        assert run.main(["m.gguf", "-p", "x", "--json-schema", str(path)]) == 2
        err = capsys.readouterr().err
        assert str(path) in err and message in err and err.count("\n") == 1
        assert not model.loaded  # type: ignore[attr-defined]


def test_a_grammar_in_a_chat(model: FakeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "digits.regex"
    path.write_text("[0-9]+\n")
    typed(monkeypatch, "one", "two")
    assert run.main(["m.gguf", "--grammar", str(path)]) == 0
    assert [a["grammar"].kind for a in model.asked] == ["regex"] * 2


def test_without_llguidance(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    path = tmp_path / "digits.regex"
    path.write_text("[0-9]+")
    assert run.main(["m.gguf", "-p", "x", "--grammar", str(path)]) == 1
    assert "pip install 'flux_vk[grammar]'" in capsys.readouterr().err
