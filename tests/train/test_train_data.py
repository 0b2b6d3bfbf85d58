"""Training data: forms of records, what is learned of them, bad lines, cuts, plain text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_vk.errors import InputError
from flux_vk.train.batches import IGNORED
from flux_vk.train.data import Data, fingerprint, read_data
from flux_vk.train.records import Encoder
from tests.text.test_template import CHATML, GEMMA, THINKING
from tests.train.chat_models import encoder, words

TALK = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "he"},
    {"role": "user", "content": "he"},
    {"role": "assistant", "content": "hell"},
]
END = "<|endoftext|>"


def data_of(tmp_path: Path, e: Encoder, *records: Any, length: int = 512, skip_bad: bool = False) -> Data:
    path = tmp_path / "data.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return read_data(path, e, length, skip_bad)


def learned(tmp_path: Path, e: Encoder, record: Any) -> tuple[str, str]:
    (example,) = data_of(tmp_path, e, record).examples
    return words(e, example)


def test_labels_are_the_ids_shifted_and_documents_end(tmp_path: Path) -> None:
    e = encoder()
    (example,) = data_of(tmp_path, e, {"text": "hello hello"}).examples
    assert words(e, example) == ("hello hello", " hello" + END)
    assert np.array_equal(example.ids[1:], example.labels[:-1])
    assert example.ids.dtype == example.labels.dtype == np.uint32


def test_bos_where_the_model_wants_it(tmp_path: Path) -> None:
    e = encoder(spm=True)
    assert learned(tmp_path, e, {"text": "hello"}) == ("<s> hello", " hello</s>")
    # Named in the text already: neither is put there twice.
    assert learned(tmp_path, e, {"text": "<s>hello</s>"}) == ("<s> hello", " hello</s>")
    assert learned(tmp_path, encoder(spm=True, add_eos_token=True), {"text": "hello"}) == ("<s> hello", " hello</s>")
    assert learned(tmp_path, encoder(spm=True, add_bos_token=False), {"text": "hello hello"})[0] == " hello hello"


@pytest.mark.parametrize("mask", [False, True])
def test_completions(tmp_path: Path, mask: bool) -> None:
    e = encoder(mask_prompt=mask)
    seen, taught = learned(tmp_path, e, {"prompt": "hello", "completion": " hello12"})
    assert seen == "hello hello12"
    assert taught == (" hello12" + END)  # one token of prompt: nothing precedes it either way
    _, taught = learned(tmp_path, e, {"prompt": "12hello", "completion": " hello"})
    assert taught == ("|" if mask else "hello") + " hello" + END
    e = encoder(spm=True, mask_prompt=True)  # the completion stands in the middle of a text: no space is put before it
    assert learned(tmp_path, e, {"prompt": "he", "completion": "llo"}) == ("<s> hello", "|llo</s>")
    e = encoder(spm=True, add_eos_token=True)  # which would end the prompt as well
    assert learned(tmp_path, e, {"prompt": "he", "completion": "llo"})[0] == "<s> hello"
    assert learned(tmp_path, e, {"prompt": "", "completion": "hello"}) == ("<s> hello", " hello</s>")


def test_a_completion_that_ends_by_itself_gets_no_second_end(tmp_path: Path) -> None:
    e = encoder(mask_prompt=True)
    record = {"prompt": "<|im_start|>he<|im_end|>", "completion": "hello<|im_end|>"}
    assert learned(tmp_path, e, record) == ("<|im_start|>he<|im_end|>hello", "|hello<|im_end|>")


def test_instructions_in_alpacas_wording(tmp_path: Path) -> None:
    e = encoder(mask_prompt=True)
    seen, taught = learned(tmp_path, e, {"instruction": "Say so", "input": "", "output": "hello"})
    assert seen.startswith("Below is an instruction that describes a task. Write")
    assert seen.endswith("### Instruction:\nSay so\n\n### Response:\nhello")
    assert taught == "|hello" + END
    seen, taught = learned(tmp_path, e, {"instruction": "Say so", "input": "hell", "output": "hello"})
    assert "paired with an input" in seen and "\n\n### Input:\nhell\n\n### Response:\nhello" in seen
    assert taught == "|hello" + END


def test_instructions_through_the_models_template(tmp_path: Path) -> None:
    e = encoder(CHATML, mask_prompt=True)
    seen, taught = learned(tmp_path, e, {"instruction": "Say", "input": "hell", "output": "hello"})
    assert seen.endswith("<|im_start|>user\nSay\n\nhell<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>")
    assert taught == "|hello<|im_end|>\n"


def test_conversations(tmp_path: Path) -> None:
    seen, taught = learned(tmp_path, encoder(CHATML), {"messages": TALK})
    assert seen.startswith("<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n")
    assert taught == seen.removeprefix("<|im_start|>") + "\n"
    _, taught = learned(tmp_path, encoder(CHATML, mask_prompt=True), {"messages": TALK})
    assert taught == "|he<|im_end|>\n|hell<|im_end|>\n"
    _, taught = learned(tmp_path, encoder(CHATML, mask_prompt=True), {"messages": TALK[:3]})
    assert taught == "|he<|im_end|>\n|"


def test_a_template_that_rewrites_earlier_turns(tmp_path: Path) -> None:
    """It ends with a tail that says how long the talk is, so no shorter talk's text begins the longer one's."""
    e = encoder(THINKING, mask_prompt=True)
    thought = [TALK[0], {"role": "assistant", "content": "<think>12</think>\nhe"}, *TALK[2:]]
    for talk in (TALK, thought):
        _, taught = learned(tmp_path, e, {"messages": talk})
        assert taught.startswith("|he<|im_end|>|hell<|im_end|>")


def test_models_without_a_template_get_a_transcript(tmp_path: Path) -> None:
    e = encoder(mask_prompt=True)  # a vocabulary that has ChatML's tokens
    seen, taught = learned(tmp_path, e, {"messages": TALK[:2]})
    assert seen == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhe<|im_end|>"
    assert taught == "|he<|im_end|>\n"


def test_tools_are_given_to_the_template(tmp_path: Path) -> None:
    e = encoder("{% for t in tools or [] %}{{ t }}{% endfor %}" + CHATML)
    assert learned(tmp_path, e, {"messages": TALK, "tools": ["12"]})[0].startswith("12<|im_start|>")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "he', r"is no JSON: .* at character 10"),
        ("[1]", "found a list, expected a JSON object"),
        ("3", "found the number 3, expected"),
        ({"txt": "a", "x": 1}, "found the keys txt, x; expected text; prompt and completion"),
        ({}, "found the keys none"),
        ({"prompt": "a"}, "found the keys prompt;"),
        ({"text": 3}, "text: found the number 3, expected a text"),
        ({"text": None}, "text: found null"),
        ({"text": " \n"}, "text: found an empty text"),
        ({"prompt": "a", "completion": ""}, "completion: found an empty text"),
        ({"instruction": "a", "input": [], "output": "b"}, "input: found a list"),
        ({"messages": []}, "messages: found an empty list"),
        ({"messages": "hi"}, "messages: found a text, expected a list of objects"),
        ({"messages": [3]}, "message 1: found the number 3, expected an object"),
        ({"messages": [{"role": "user"}]}, "message 1: content: found none, expected a text"),
        ({"messages": [TALK[0], {"role": "user", "content": None}]}, "message 2: content: found null"),
        ({"messages": TALK[1:]}, "the chat template refuses these messages: Conversation roles must alternate"),
        ({"messages": TALK[:1]}, r"nothing to learn \("),
        ("[" * 100_000, "is no JSON"),
        ('{"text": ' + "1" * 5000 + "}", "is no JSON|the number"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: Any, what: str) -> None:
    e = encoder(GEMMA, mask_prompt=True)
    good = {"text": "hello"}
    with pytest.raises(InputError, match=rf"data\.jsonl:3: .*{what}.*skip-bad"):
        data_of(tmp_path, e, good, "", line, good)
    data = data_of(tmp_path, e, good, "", line, good, skip_bad=True)
    assert (len(data.examples), [s.line for s in data.skipped]) == (2, [3])
    assert "1 bad lines left out (first: line 3)" in data.summary


def test_a_line_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "hello"}\r\n{"text": "\xff"}\r\n')
    with pytest.raises(InputError, match=r"d\.jsonl:2: is not UTF-8 \(byte 11 of the line\)"):
        read_data(path, encoder(), 8)
    assert len(read_data(path, encoder(), 8, skip_bad=True).examples) == 1


def test_files_without_anything_to_learn(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    with pytest.raises(InputError, match=r"d\.jsonl: cannot be read"):
        read_data(path, encoder(), 8)
    path.write_text("\n\n")
    with pytest.raises(InputError, match="holds nothing to learn from; expected"):
        read_data(path, encoder(), 8)
    path.write_text("{}\n")
    with pytest.raises(InputError, match="from; all 1 lines are bad, first line 1: found the keys none"):
        read_data(path, encoder(), 8, skip_bad=True)


def test_long_examples_are_cut_and_counted(tmp_path: Path) -> None:
    e = encoder(mask_prompt=True)
    records = {"text": "121212hello"}, {"text": "12"}, {"prompt": "1212", "completion": "3"}
    data = data_of(tmp_path, e, *records, length=3)
    assert data.truncated == 1 and [len(x) for x in data.examples] == [3, 1, 3]
    assert words(e, data.examples[0]) == ("121212", "1212hello")  # its end is not what it learns
    assert "1 cut to the greatest length" in data.summary
    assert data.tokens == 7 and data.counted == 3 + 1 + 2
    with pytest.raises(InputError, match=r":1: nothing to learn in its first 3 tokens; raise max-length \(6 tokens\)"):
        data_of(tmp_path, e, {"prompt": "12" * 4, "completion": "3"}, length=3)


@pytest.mark.parametrize("spm", [False, True])
@pytest.mark.parametrize("length", [1, 3, 4, 100])
def test_plain_text_is_learned_once_whole(tmp_path: Path, spm: bool, length: int) -> None:
    e = encoder(spm=spm)
    text = "hello <s>hello he" if spm else "12hello hello<|im_end|>12"
    path = tmp_path / "a.txt"
    path.write_text(text)
    data = read_data(path, e, length)
    whole = e.tokenizer.encode(text, add_special=False)
    taught = [int(i) for example in data.examples for i in example.labels]
    assert taught == [*(whole if spm else whole[1:]), e.tokenizer.eos_id]
    assert all(len(example) == length for example in data.examples[:-1])
    for example in data.examples:
        begin = [e.tokenizer.bos_id] if spm else list(example.ids[:1])
        assert example.ids.tolist() == [*begin, *example.labels[:-1].tolist()]
    assert IGNORED not in taught


def test_plain_text_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nbad \xff\n")
    with pytest.raises(InputError, match=r"a\.txt:2: is not UTF-8 \(byte 10 of the file\)"):
        read_data(path, encoder(), 8)
    path.write_text(" \n")
    with pytest.raises(InputError, match="holds nothing to learn from"):
        read_data(path, encoder(), 8)


def test_a_list_of_records(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"text": "hello"}, {"text": 3}], indent=1))
    with pytest.raises(InputError, match=r"d\.json:2: text: found the number 3"):
        read_data(path, encoder(), 8)
    assert len(read_data(path, encoder(), 8, skip_bad=True).examples) == 1
    path.write_text('[\n{"text": "a"},\n}')
    with pytest.raises(InputError, match=r"d\.json:3: is no JSON"):
        read_data(path, encoder(), 8)


def test_progress_and_fingerprint(tmp_path: Path) -> None:
    e = encoder()
    seen: list[tuple[int, int]] = []
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "hello"}\n{"text": "12"}\n')
    data = read_data(path, e, 8, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(18, 33), (33, 33)]
    assert fingerprint(data.examples) == fingerprint(read_data(path, e, 8).examples)
    assert fingerprint(data.examples) != fingerprint(data.examples[::-1])
