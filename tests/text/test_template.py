"""Chat templates: those of well-known shape give the text expected, hostile ones end soon with an error."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_vk.errors import TokenizerError
from flux_vk.text import ChatTemplate, Tokenizer
from flux_vk.text.template import MAX_TEMPLATE
from tests.text.vocabs import bpe_keys, spm_keys, write_gguf

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Hi! "},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]

CHATML = """{%- if messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
    {{- '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
LLAMA3 = """{{- bos_token }}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" ~ system ~ "<|eot_id|>" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}
{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate') }}
{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""
THINKING = """{%- macro head(role) %}{{ '<|im_start|>' ~ role ~ '\\n' }}{% endmacro -%}
{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.last < 0 and m.role == 'user' and not (m.content.startswith('<tool>')) %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content %}
    {%- if '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if m.role == 'system' %}{% continue %}{% endif %}
    {{- head(m.role) }}{{ content.strip() }}<|im_end|>
{% if loop.last %}[{{ loop.length }},{{ ns.last }}]{% endif %}
{%- endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>' }}{% endif %}"""


def test_chatml() -> None:
    assert ChatTemplate(CHATML).render(TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    short = ChatTemplate(CHATML).render(TALK[1:2], add_generation_prompt=False)
    assert short == "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n"


def test_llama3() -> None:
    template = ChatTemplate(LLAMA3, tokens={"bos_token": "<|begin_of_text|>"})
    head = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    user = "<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
    assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert template.render(TALK[:2]) == head + user + assistant
    tool = '{\n    "name": "f\u00fcr <b>"\n}\n\n'
    assert template.render(TALK[:2], tools=[{"name": "f\u00fcr <b>"}]) == head + tool + user + assistant


def test_gemma() -> None:
    template = ChatTemplate(GEMMA, tokens={"bos_token": "<bos>"})
    assert template.render(TALK[1:2]) == ("<bos><start_of_turn>user\nHi!<end_of_turn>\n<start_of_turn>model\n")
    with pytest.raises(TokenizerError, match="refuses these messages: System role not supported"):
        template.render(TALK)
    with pytest.raises(TokenizerError, match="roles must alternate"):
        template.render([TALK[1], TALK[1]])


def test_macros_loops_and_namespaces() -> None:
    talk = [*TALK[:2], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello."}, TALK[3]]
    assert ChatTemplate(THINKING).render(talk, enable_thinking=False) == (
        "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n[4,3]<think>\n\n</think>"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ '%s-%02d' % ('a', 7) }}{{ 'x' * 3 }}{{ 7 // 2 }}{{ 2 ** 10 }}", "a-07xxx31024"),
        ("{{ '1000 %s 2000%%' % 'x' }}", "1000 x 2000%"),
        ("{{ '%s:%s' | format('a', 1) }}", "a:1"),
        ("{{ ['a', 'b'] | join(', ') }}|{{ ', '.join(['c', 'd']) }}", "a, b|c, d"),
        ("{{ 'a-b'.replace('-', '+') }}{{ 'a-b' | replace('-', '') }}", "a+bab"),
        ("{{ messages | map(attribute='role') | list | tojson }}", '["system", "user", "assistant", "user"]'),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "2"),
        ("{{ [1, 2, 3] | sum }}{{ [3, 1] | sort | first }}{{ (1, 2)[1] }}", "612"),
        ("{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "b1a2"),
        ("{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}", "a2b1"),
        ("{% set x = [1] + [2] %}{{ x }}{{ none }}{{ true }}{{ nothing }}", "[1, 2]NoneTrue"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x ~ x }}", "a1a1"),
        ("{% generation %}{{ messages[2].content }}{% endgeneration %}", "Hello."),
        ("{{ 'a\\nb' | indent(2) }}", "a\n  b"),
        ("{% for i in range(5) if i is odd %}{{ loop.index }}{{ i }}{{ ',' if not loop.last }}{% endfor %}",
         "11,23"),
        ("{% for i in [[1, [2]]] recursive %}{{ i if i is number else loop(i) }}{% endfor %}", "12"),
        ("{{ 'user' in messages[1].values() }}{{ 1 < 2 < 3 }}", "TrueTrue"),
        ("{{ messages[-1]['content'][0:2] }}{{ 'abc'[::-1] }}", "Bycba"),
        ("{% macro m(x) %}<{{ caller() }}{{ x }}>{% endmacro %}{% call m('k') %}c{% endcall %}", "<ck>"),
    ],
)  # fmt: skip
def test_the_language_is_all_there(source: str, text: str) -> None:
    assert ChatTemplate(source).render(TALK) == text


def test_strftime_now() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([])[:2] == "20"


NEST = "{% for a in range(99999) %}" * 6 + "{% endfor %}" * 6
DOUBLE = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = EXPR %}{% endfor %}"
HOSTILE = {
    "range": "{% for i in range(999999999) %}x{% endfor %}",
    "silent loops": NEST,
    "output": "{% for a in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "output in a block": "{% set y %}{% for a in range(99999) %}"
    + "x" * 9999
    + "{% endfor %}{% endset %}{{ y|length }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "power, small exponent": "{{ ((((2 ** 63) ** 63) ** 63) ** 63) ** 63 }}",
    "repeat": "{{ 'a' * 10 ** 10 }}",
    "repeat list": "{{ [0] * 10 ** 10 }}",
    "repeat twice": "{% set x = 'a' * 9999999 %}{{ [x, x, x, x, x, x, x, x] * 9999 }}",
    "percent width": "{{ '%9999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (999999999, 1) }}",
    "format": "{{ '{:9999999999}'.format(1) }}",
    "center": "{{ 'a'.center(10 ** 10) }}",
    "center filter": "{{ 'a' | center(10 ** 10) }}",
    "indent": "{{ 'a\\nb' | indent(10 ** 10) }}",
    "tojson indent": "{{ {'a': 1} | tojson(indent=10 ** 10) }}",
    "replace": "{% set x = 'a' * 999999 %}{{ x.replace('', x) }}",
    "replace filter": "{% set x = 'a' * 999999 %}{{ x | replace('', x) }}",
    "join": "{% set x = 'a' * 999999 %}{{ x.join(range(99999) | map('string') | list) }}",
    "join filter": "{% set x = 'a' * 999999 %}{{ range(99999) | join(x) }}",
    "doubling": DOUBLE.replace("EXPR", "ns.x ~ ns.x"),
    "doubling sum": DOUBLE.replace("EXPR", "ns.x + ns.x"),
    "doubling lists": DOUBLE.replace("EXPR", "[ns.x, ns.x]") + "{{ ns.x }}",
    "doubling lists compared": DOUBLE.replace("EXPR", "[ns.x, ns.x]") + "{{ ns.x == ns.x[0] }}",
    "doubling dictionaries": DOUBLE.replace("EXPR", "{'a': ns.x, 'b': ns.x}") + "{{ ns.x | tojson }}",
    "doubling by dict()": DOUBLE.replace("EXPR", "dict(a=ns.x, b=ns.x)") + "{{ ns.x | string }}",
    "doubling namespaces": DOUBLE.replace("EXPR", "namespace(a=ns.x, b=ns.x)") + "{{ ns.x }}",
    "squaring": "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "round": "{{ 5 | round(-999999999) }}",
    "macro twice": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "macro tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "sum of lists": "{{ ([[1] * 999] * 9999) | sum(start=[]) }}",
    "map": NEST.replace("}{% endfor", "}{{ range(99999) | map('string') | list | sort | first }}{% endfor", 1),
    "slow in": "{% set x = ['a' * 999999] %}{% for i in range(20) %}{% set x = x + x %}{% endfor %}{{ 1 in x }}"
    "{% set ns = namespace(x=x) %}{% for i in range(20) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
    "{{ ('a' * 999998 ~ 'b') in ns.x }}",
    "accumulate": "{% set ns = namespace(x=[]) %}{% set s = 'a' * 999999 %}{% for i in range(99999) %}"
    "{% set ns.x = ns.x + [s[1:]] %}{% endfor %}",
    "search from the right": "{% set x = 'a' * 999999 %}{{ x.rfind('a' * 250000 ~ 'b' ~ 'a' * 250000) }}",
    "strip": "{% set x = 'a' * 999999 %}{{ x.strip('b' * 500000 ~ 'a') }}",
    "trim": "{% set x = 'a' * 999999 %}{{ x | trim('b' * 500000 ~ 'a') }}",
    "percent precision": "{{ '%(a)-5.9999999999f' % {'a': 1} }}",
    "lipsum": "{{ lipsum(n=10 ** 9) }}",
    "strftime": "{{ strftime_now('%999999999d') }}",
    "date format": "{{ strftime_now('%Y' * 99999) }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "autoescape": "{% autoescape true %}{{ '<' * 9 }}{% endautoescape %}",
    "internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "internals by attr": "{{ '' | attr('__class__') }}",
    "internals by map": "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "append": "{{ messages.append(1) }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "long sum": "{{ " + "1+" * 20000 + "1 }}",
    "many elif": "{% if 0 %}" + "{% elif 0 %}" * 5000 + "{% endif %}",
    "deep if": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "deep for": "{% for a in 'a' %}" * 30 + "{% endfor %}" * 30,
    "long number": "{{ " + "9" * 100000 + " }}",
    "long number output": "{{ " + "9" * 4000 + " * 2 }}",
    "open": "{% if %}",
    "unknown filter": "{{ 1 | nosuchfilter }}",
    "undefined call": "{{ nothing() }}",
    "division": "{{ 1 / 0 }}",
    "types": "{{ 'a' + 1 }}",
    "type error": "{% for x in 5 %}{% endfor %}",
    "tojson of a function": "{{ range | tojson }}",
    "generator": "{{ (x for x in y) }}",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_templates_end_soon(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(TokenizerError, match="chat template") as caught:
        text = ChatTemplate(HOSTILE[name]).render(TALK)
        print(f"rendered {text[:200]!r}")
    took = time.monotonic() - start
    print(f"{took:.2f} s: {caught.value}")
    assert took < 30, "it does not end; the limit itself is 2 s, the rest is for a busy machine"
    assert "\n" not in str(caught.value)


FRAGMENTS = st.lists(
    st.sampled_from(
        "{{ }} {% %} {# #} {%- -%} for if elif else endfor endif set endset macro endmacro in is not x y messages "
        "loop range(9) ns = == + - * ** // % ~ | ( ) [ ] { } : , . 'a' 1 9999999 none true tojson join(x) length "
        "items() namespace(x=1) x.y caller() call endcall filter endfilter break continue raw endraw block with".split()
    ),
    max_size=25,
)


@given(FRAGMENTS, st.booleans())
@settings(max_examples=150)
def test_any_template_gives_text_or_a_clear_error(fragments: list[str], braces: bool) -> None:
    source = " ".join(fragments)
    try:
        text = ChatTemplate("{{ " + source + " }}" if braces else source).render(TALK)
    except TokenizerError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(text, str)


def test_internals_are_out_of_reach() -> None:
    for expression in ("raise_exception.__globals__", "''.format", "messages.__class__", "namespace.__init__"):
        assert ChatTemplate("{{ " + expression + " }}").render(TALK) == ""


def test_a_large_valid_template_compiles_or_is_refused() -> None:
    source = ("{{ messages }}" * MAX_TEMPLATE)[: MAX_TEMPLATE // 14 * 14]
    start = time.monotonic()
    try:
        ChatTemplate(source)
    except TokenizerError as error:
        assert "longer than" in str(error)
    print(f"{time.monotonic() - start:.2f} s")


def test_too_long() -> None:
    with pytest.raises(TokenizerError, match="found a chat template of 131073 characters, expected at most 131072"):
        ChatTemplate("a" * (MAX_TEMPLATE + 1))


def test_long_conversations_fit() -> None:
    talk = [{"role": ("user", "assistant")[i % 2], "content": "word " * 400} for i in range(1000)]
    for source in (CHATML, LLAMA3, GEMMA, THINKING):
        assert len(ChatTemplate(source).render(talk)) > 1_990_000
    with pytest.raises(TokenizerError, match="stopped"):
        ChatTemplate(CHATML).render([{"role": "user", "content": "a" * 50_000_000}])


def test_threads_share_a_template() -> None:
    template = ChatTemplate(CHATML)
    expected = template.render(TALK)
    wrong: list[Any] = []

    def many() -> None:
        wrong.extend(text for text in (template.render(TALK) for _ in range(50)) if text != expected)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_from_gguf(tmp_path: Path) -> None:
    keys = {
        **spm_keys(padding_token_id=2),
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}",
        "tokenizer.chat_template.tool_use": "tools",
    }
    path = write_gguf(tmp_path / "chat.gguf", keys)
    template = ChatTemplate.from_gguf(path)
    text = template.render([{"role": "user", "content": "hello"}])
    assert text == "<s>hello</s></s>"
    tokenizer = Tokenizer.from_gguf(path)
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    assert ids == [1, *tokenizer.encode("hello", add_special=False), 2, 2]
    assert ChatTemplate.from_gguf(str(path), "tool_use").render([]) == "tools"
    with pytest.raises(TokenizerError, match=r"chat_template\.rag"):
        ChatTemplate.from_gguf(path, "rag")


def test_fallback() -> None:
    chatml = SimpleNamespace(metadata=bpe_keys())
    with pytest.raises(TokenizerError, match="'tokenizer.chat_template': found nothing.*fallback"):
        ChatTemplate.from_gguf(chatml)
    assert ChatTemplate.fallback(chatml).render(TALK[:2]).endswith("Hi! <|im_end|>\n<|im_start|>assistant\n")
    plain = SimpleNamespace(metadata={"tokenizer.ggml.tokens": ["<s>", "a"], "tokenizer.ggml.bos_token_id": 0})
    text = ChatTemplate.fallback(plain).render(TALK)
    assert text == "<s>Be brief.\n\nUser:   Hi! \n\nAssistant: Hello.\n\nUser: Bye\n\nAssistant:"


def test_template_of_the_malformed_set(reference_dir: Path) -> None:
    path = reference_dir / "gguf-malformed" / "made" / "chat_template_loop.gguf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with pytest.raises(TokenizerError, match="chat template stopped"):
        ChatTemplate.from_gguf(path).render(TALK)


def test_template_of_phi3(reference_dir: Path) -> None:
    path = reference_dir / "tokenizer" / "ggml-vocab-phi-3.gguf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    text = ChatTemplate.from_gguf(path).render([{"role": "user", "content": "Hi"}])
    assert text == "<s><|user|>\nHi<|end|>\n<|assistant|>\n"
