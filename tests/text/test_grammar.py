"""Grammars and schemas without a model: what is refused, and that the texts which masks allow are those described."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from flux_vk.errors import FluxError, GrammarError, InputError
from flux_vk.text import Grammar, Tokenizer
from flux_vk.text.gbnf import is_gbnf, plain_escapes
from flux_vk.text.matching import GrammarVocabulary, Matcher
from tests.text.vocabs import bpe_keys, spm_keys, write_gguf
from tests.text.walks import ARITHMETIC, LARK, LIST, SCHEMAS, allowed, is_arithmetic, is_list, walk

KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "spm": lambda folder: Tokenizer.from_gguf(write_gguf(folder / "spm.gguf", spm_keys())),
    "bpe": lambda folder: Tokenizer.from_gguf(write_gguf(folder / "bpe.gguf", bpe_keys())),
    "endless": lambda folder: Tokenizer.from_gguf(
        write_gguf(folder / "endless.gguf", bpe_keys(eos_token_id=0xFFFFFFFF) | renamed())
    ),
}


def renamed() -> dict[str, Any]:
    """A byte-level vocabulary none of whose tokens has a name that ends a text."""
    keys = bpe_keys()
    names = {"<|endoftext|>": "<a>", "<|im_end|>": "<b>"}
    return {"tokenizer.ggml.tokens": [names.get(name, name) for name in keys["tokenizer.ggml.tokens"]]}


@pytest.fixture(scope="module", params=[*KINDS, "demo"])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Any:
    if request.param == "demo":
        return GrammarVocabulary(Tokenizer.from_gguf(demo_model))
    return GrammarVocabulary(KINDS[request.param](tmp_path_factory.mktemp("vocabulary")))



def write(v: GrammarVocabulary, grammar: Grammar, rng: np.random.Generator, most: int = 400) -> tuple[str, bool]:
    tokens, ended = walk(v.matcher(grammar), rng, v.tokenizer.eog_ids, most)
    assert all(v.tokenizer.rendered(t) for t in tokens), "a token that writes nothing was allowed"
    return b"".join(v.tokenizer.piece(t) for t in tokens).decode(errors="strict" if ended else "replace"), ended


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("whitespace", [False, True])
def test_json(vocabulary: GrammarVocabulary, rng: np.random.Generator, name: str, whitespace: bool) -> None:
    grammar = Grammar.from_json_schema(SCHEMAS[name], whitespace=whitespace)
    checker = jsonschema.Draft202012Validator(SCHEMAS[name])
    done = 0
    for _ in range(40):
        text, ended = write(vocabulary, grammar, rng)
        if ended:
            found = json.loads(text)
            checker.validate(found)
            done += 1
            if not whitespace:
                bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
                assert "\n" not in bare and "  " not in bare
    assert done >= 10, "too few texts came to an end to say anything"


@pytest.mark.parametrize(
    "text, check",
    [
        (LIST, is_list),
        (ARITHMETIC, is_arithmetic),
        (LARK, lambda t: re.fullmatch("(hello|he|caf\u00e9) [a-z\u00e4]{1,9}!", t)),
        (r'root ::= "a\x41\u00e9\n" [^\x00-\x60\x7b-\U0010ffff] . "]" [\]\[&-]', lambda t: re.fullmatch(
            "aA\u00e9\n[a-z].\\][]\\[&-]", t, re.DOTALL)),
    ],
)  # fmt: skip
def test_grammars(vocabulary: GrammarVocabulary, rng: np.random.Generator, text: str, check: Any) -> None:
    grammar = Grammar.from_text(text)
    texts = [t for t, ended in (write(vocabulary, grammar, rng, 150) for _ in range(60)) if ended]
    assert len(texts) >= 10
    for found in texts:
        assert check(found), found


def test_regex(vocabulary: GrammarVocabulary, rng: np.random.Generator) -> None:
    pattern = r"[0-9]{3}-(he|hello|\u{e9}+)?[a-f]{2,5}!?"
    grammar = Grammar.regex(pattern)
    for _ in range(60):
        text, ended = write(vocabulary, grammar, rng, 60)
        if ended:
            assert re.fullmatch(pattern.replace(r"\u{e9}", "\u00e9"), text), text


def test_taking_tokens_back(vocabulary: GrammarVocabulary, rng: np.random.Generator) -> None:
    grammar = Grammar.from_json_schema(SCHEMAS["person"])
    matcher, seen = vocabulary.matcher(grammar), []
    for _ in range(20):  # fewer than the shortest text has in any of the vocabularies
        seen.append(allowed(matcher))
        matcher.accept(int(rng.choice(seen[-1])))
    seen.append(allowed(matcher))
    for back in (0, 1, 3, 12, 4):
        kept = len(matcher.tokens) - back
        tokens = matcher.tokens[:kept]
        matcher.rollback(back)
        assert matcher.tokens == tokens and allowed(matcher) == seen[kept]
        anew = vocabulary.matcher(grammar)
        for token in tokens:
            anew.accept(token)
        assert allowed(anew) == allowed(matcher)
    with pytest.raises(GrammarError, match="rollback of 99 tokens; expected 0 to"):
        matcher.rollback(99)


def test_a_token_that_is_not_allowed(vocabulary: GrammarVocabulary) -> None:
    matcher = vocabulary.matcher(Grammar.regex("[0-9]+"))
    with pytest.raises(GrammarError, match="the regular expression: .*at token"):
        matcher.accept(vocabulary.tokenizer.encode_inside("x")[0])


def test_masks_are_as_long_as_the_vocabulary(vocabulary: GrammarVocabulary) -> None:
    size = vocabulary.tokenizer.vocab_size
    matcher = vocabulary.matcher(Grammar.regex("(?s:.*)"))
    into = np.full(-(-size // 32), 0xFFFFFFFF, np.uint32)
    assert matcher.mask(into) is into
    ids = np.flatnonzero(np.unpackbits(into.view(np.uint8), bitorder="little"))
    hidden = {i for i in range(size) if not vocabulary.tokenizer.rendered(i)}
    assert ids.max() < size and hidden.intersection(ids.tolist()) == vocabulary.tokenizer.eog_ids


def test_a_vocabulary_that_lacks_characters(tmp_path: Path) -> None:
    """A grammar that it cannot begin is refused; one that leads into a dead end says so when it is reached."""
    v = GrammarVocabulary(Tokenizer.from_gguf(write_gguf(tmp_path / "v.gguf", spm_keys(with_bytes=False))))
    with pytest.raises(GrammarError, match="no token of .*v.gguf can follow at the beginning.*cannot write"):
        v.matcher(Grammar.regex("[0-9]+"))
    matcher = v.matcher(Grammar.from_text('start: "he" ("llo" | "x") "Q"'))
    for token in v.tokenizer.encode_inside("hello"):
        assert token in allowed(matcher)
        matcher.accept(token)
    with pytest.raises(GrammarError, match="can follow behind 'hello'"):
        matcher.mask()


BAD: list[tuple[str, Callable[[], Grammar], str]] = [
    ("schema text", lambda: Grammar.from_json_schema('{"type": '), r"line 1 column 10.*expected a JSON schema"),
    ("no object", lambda: Grammar.from_json_schema("[1]"), "found list, expected a JSON schema: an object"),
    ("false", lambda: Grammar.from_json_schema("false"), "no text satisfies"),
    ("type", lambda: Grammar.from_json_schema({"type": "strin"}), "strin"),
    ("unsupported", lambda: Grammar.from_json_schema({"type": "array", "uniqueItems": True}), "uniqueItems.*lenient"),
    ("contradiction", lambda: Grammar.from_json_schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
    ("empty enum", lambda: Grammar.from_json_schema({"enum": []}), "Unsatisfiable.*contradict"),
    ("pointer", lambda: Grammar.from_json_schema({"$ref": "#/x"}), "'/x' does not exist"),
    ("look-ahead", lambda: Grammar.from_json_schema({"type": "string", "pattern": "(?=a)b"}), "look-ahead"),
    ("no JSON", lambda: Grammar.from_json_schema({"const": {1, 2}}), "not JSON serializable"),
    ("regex", lambda: Grammar.regex("a("), "unclosed group"),
    ("undefined", lambda: Grammar.from_text('start: "a" foo'), 'line 1, column 8: unknown name: "foo"'),
    ("unclosed", lambda: Grammar.from_text('start: "a'), "lexer error"),
    ("no start", lambda: Grammar.from_text('begin: "a"'), "start"),
    ("empty", lambda: Grammar.from_text(" \n"), "found no text"),
    ("gbnf root", lambda: Grammar.from_text('start ::= "a"'), "root"),
    ("gbnf rule", lambda: Grammar.from_text("root ::= a b"), "'a' not found"),
    ("gbnf escape", lambda: Grammar.from_text(r'root ::= "\q"'), r"Invalid escape sequence \\q at line 1"),
    ("gbnf open", lambda: Grammar.from_text('root ::= ("a"'), r"Expected '\)'"),
]


@pytest.mark.parametrize("make, message", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_refused(make: Callable[[], Grammar], message: str) -> None:
    with pytest.raises(GrammarError, match=message) as caught:
        make()
    assert isinstance(caught.value, InputError) and "\n" not in str(caught.value)


def test_what_never_ends_is_refused_by_its_beginning(vocabulary: GrammarVocabulary) -> None:
    """Where the library sees it only with a vocabulary, or as it writes."""
    with pytest.raises(GrammarError, match="can follow at the beginning: the grammar describes no text that ends"):
        vocabulary.matcher(Grammar.from_text('start: start "a"'))
    with pytest.raises(GrammarError, match="never ends or is too complex"):
        vocabulary.matcher(Grammar.from_text('start: "a" x\nx: "b" x'))


@pytest.mark.parametrize("name", ["a.gbnf", "a.lark", "a.json", "a.regex", "a.txt", "b.txt"])
def test_files(tmp_path: Path, rng: np.random.Generator, vocabulary: GrammarVocabulary, name: str) -> None:
    """Known by their ending, others by their rules."""
    texts = {"a.gbnf": 'root ::= "he"', "a.lark": 'start: "he"', "a.json": '{"const": "he"}', "a.regex": "he\n"}
    path = tmp_path / name
    path.write_text(texts.get(name, texts["a.gbnf" if name[0] == "a" else "a.lark"]))
    text, ended = write(vocabulary, Grammar.from_file(path), rng)
    assert ended and text == ('"he"' if name == "a.json" else "he")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "latin.gbnf").write_bytes(b'root ::= "\xe9"')
    (tmp_path / "bad.json").write_text('{\n"type": x}')
    for name, message in (
        ("none.gbnf", "none.gbnf: cannot be read .No such file"), ("", "cannot be read .Is a directory"),
        ("latin.gbnf", "latin.gbnf: byte 10 is not UTF-8"), ("bad.json", "bad.json: .*line 2 column 9"),
    ):  # fmt: skip
        with pytest.raises(GrammarError, match=message):
            Grammar.from_file(tmp_path / name)


def test_the_notation_is_seen() -> None:
    assert is_gbnf('# words ::=\n  root ::= "a"') and is_gbnf("a-b ::=\n") and not is_gbnf('start: "a ::= b"')
    assert plain_escapes(r'root ::= "." . # a "." [x') == 'root ::= "." [\\x00-\U0010ffff] # a "." [x'
    assert plain_escapes(r'"\x41\u00e9\"\x0b"') == '("A\u00e9\\"" [\\x0b])'
    assert plain_escapes(r"[^&\x5e\x2d\u0085\]]") == "[^\\x26\\x5e\\x2d\x85\\]]"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    makes = (Grammar.regex, Grammar.from_json_schema, Grammar.from_text)
    for make, given in zip(makes, ("a", "{}", 'root ::= "a"'), strict=True):
        with pytest.raises(FluxError, match=r"pip install 'flux_vk\[grammar\]'"):
            make(given)


def test_one_compilation_for_all_texts(vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    grammar, rehearsals = Grammar.regex("[0-9]+"), []
    rehearse = Matcher.rehearse
    monkeypatch.setattr(Matcher, "rehearse", lambda self: (rehearsals.append(1), rehearse(self)))
    first, second = vocabulary.matcher(grammar), vocabulary.matcher(grammar)
    token = vocabulary.tokenizer.encode_inside("1")[0]
    first.accept(token)
    assert len(rehearsals) == 1 and first.tokens == [token] and second.tokens == []


def test_text_that_stands_inside(vocabulary: GrammarVocabulary) -> None:
    """Nothing is put in front of it, and names of special tokens are spelled out."""
    tokenizer = vocabulary.tokenizer
    for text in ("hello", " hello", "he</s><|im_end|>llo", "\u00e9t\u00e9 \U0001f600", ""):
        ids = tokenizer.encode_inside(text)
        assert b"".join(tokenizer.piece(i) for i in ids) == text.encode()
        assert all(tokenizer.rendered(i) for i in ids)
        assert vocabulary(text.encode()) == ids
    assert b"".join(tokenizer.piece(i) for i in vocabulary(b"ab\xff")) == b"ab\xff", "bytes that are no text"
