"""What the pages say against what is there: links, names, variables, commands, options, docstrings.

Not for: the examples (test_doc_pages.py), docs/environment.md (tests/test_settings.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import flux_vk
from flux_vk.settings import VARIABLES
from tests.docs.command_line import COMMANDS, PAGE, parser_of, written

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "models").glob("*.md"))]
ROOMS = ("gpu", "formats", "text", "models", "flux", "decode", "engine", "train", "cli")
IN_A_WHEEL = "flux_vk/demo/"
# Variables of others that the pages may name.
FOREIGN = {"VK_LOADER_DEBUG", "LP_NUM_THREADS", "LP_NATIVE_VECTOR_WIDTH", "XDG_CACHE_HOME", "GLSLANG_VALIDATOR"}


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if not target.startswith(("http://", "https://")):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_internal_links_resolve(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}: {target.name} has no such heading"


def test_every_page_is_on_the_map() -> None:
    named = {link.partition("#")[0] for link in links(ROOT / "docs" / "index.md")}
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= named, f"docs/index.md does not name {sorted(pages - named)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_variables_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {v.name for v in VARIABLES} | FOREIGN
    used = set(re.findall(r"\bFLUX_VK_[A-Z_]+\b", text)) | set(re.findall(r"`([A-Z][A-Z_]+)=", text))
    used |= set(re.findall(r"\$\{?([A-Z][A-Z_]{3,})", text))
    assert used <= known, f"{page.name} names variables that nothing reads: {sorted(used - known)}"
    for module in set(re.findall(r"python -m ([\w.]+)", text)):
        assert importlib.util.find_spec(module) is not None, f"{page.name}: python -m {module} does not exist"


def test_paths_in_the_prose_exist() -> None:
    """`flux_vk/models/step.py` and the like; names with capitals or stars stand for many."""
    named = re.compile(r"`((?:flux_vk|native|shaders|kernels|tests|docs|models)/[\w./*-]*)`")
    for page in PAGES:
        for path in named.findall(prose(page.read_text(encoding="utf-8"))):
            if "*" not in path and not re.search(r"[A-Z]", path.removesuffix("README.md")) and path != IN_A_WHEEL:
                there = (ROOT / path).exists() or (ROOT / "flux_vk" / path).exists()  # some name modules by their room
                assert there, f"{page.name}: `{path}` does not exist"


def test_option_tables_are_those_of_the_programs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run: python -m tests.docs.command_line"


def test_options_named_in_the_prose_exist() -> None:
    options = {"--help", "--kernels", "--shaders", "--out"}
    for command in COMMANDS:
        found = [parser_of(command)]
        while found:
            parser = found.pop()
            for action in parser._actions:
                options |= set(action.option_strings)
                if isinstance(action.choices, dict):
                    found += action.choices.values()
    for page in PAGES:
        used = set(re.findall(r"`(--[a-z][\w-]*)", prose(page.read_text(encoding="utf-8"))))
        assert used <= options, f"{page.name}: {sorted(used - options)} are no options"


def exported() -> Iterator[tuple[str, object]]:
    """(name, object) of everything that the package and its rooms export."""
    for room in ("flux_vk", *(f"flux_vk.{room}" for room in ROOMS)):
        module = importlib.import_module(room)
        yield room, module
        for name in getattr(module, "__all__", ()):
            yield f"{room}.{name}", getattr(module, name)


def members(name: str, thing: object) -> Iterator[tuple[str, object]]:
    """The object, and of a class of ours its public methods and properties."""
    yield name, thing
    if inspect.isclass(thing) and thing.__module__.startswith("flux_vk."):
        for part, member in vars(thing).items():
            inner = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if not part.startswith("_") and (inspect.isfunction(inner) or isinstance(inner, property)):
                yield f"{name}.{part}", inner


# Their names and types say all there is.
PLAIN = re.compile(r"\.(close|nbytes|size|end|tags|reads|writes|total_ns)$|NullDevice\.")


def test_every_public_name_has_a_docstring() -> None:
    silent = [
        name
        for exported_name, thing in exported()
        for name, member in members(exported_name, thing)
        if not isinstance(member, (str, tuple, Mapping)) and not (inspect.getdoc(member) or PLAIN.search(name))
    ]
    assert not silent, "no docstring: " + ", ".join(sorted(set(silent)))


def test_errors_are_explained_and_listed() -> None:
    errors = importlib.import_module("flux_vk.errors")
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.FluxError):
            assert kind.__doc__ and f"`{name}`" in page.replace("fx.", ""), f"docs/library.md does not list {name}"


def test_the_library_page_names_what_is_exported() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    missing = [name for name in flux_vk.__all__ if f"`fx.{name}`" not in page]
    assert not missing, f"docs/library.md does not name {missing}"


def test_the_sampling_page_has_the_defaults() -> None:
    from dataclasses import fields

    from flux_vk import SamplingParams

    page = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    for field in fields(SamplingParams):
        if field.init:
            row = re.search(rf"^\| `{field.name}` \| ([^|]+) \|", page, re.M)
            assert row, f"docs/sampling.md has no row for {field.name}"
            if isinstance(field.default, (int, float)):
                assert float(row[1]) == field.default, f"{field.name} is {field.default} by default"


def test_the_architectures_of_the_readme() -> None:
    from flux_vk.models import ARCHITECTURES

    line = re.search(r"^- Architectures: (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert line and set(re.findall(r"`(\w+)`", line[1])) == set(ARCHITECTURES)


def test_the_import_is_light() -> None:
    """docs/library.md says so."""
    import subprocess
    import sys

    code = "import flux_vk, sys; print(sorted({'numpy', 'jinja2', 'flux_vk._kompute'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
