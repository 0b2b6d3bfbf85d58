"""The shape of the source: imports go up the room table only, files stay small, imports are declared.

Not for: what the modules do. Nothing is imported here; the sources are read with `ast`.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "flux_vk"
MAX_LINES = 400
GROUND = ("errors", "settings", "logs", "files")

# Room -> rooms it may import; itself and the ground always.
ROOMS: dict[str, tuple[str, ...]] = {
    "formats": (),
    "gpu": ("formats",),
    "text": ("formats",),
    "models": ("gpu", "formats"),
    "flux": ("gpu", "formats"),
    "decode": ("gpu", "formats", "text", "models", "flux"),
    "engine": ("gpu", "formats", "text", "models", "flux", "decode"),
    "serve": ("gpu", "formats", "text", "models", "flux", "decode", "engine"),
    "train": ("gpu", "formats", "text", "models", "decode", "engine"),
    "cli": ("gpu", "formats", "text", "models", "flux", "decode", "engine", "serve", "train"),
}
# Imported late by what only benchmarks and tests use, which says what to install where it is missing.
OPTIONAL = {
    "flux_vk/flux/heatmap.py": {"matplotlib"},
    "flux_vk/models/reference.py": {"gguf"},
    "flux_vk/formats/adapter_peft.py": {"safetensors"},
    "flux_vk/cli/bench_plots.py": {"matplotlib"},
    "flux_vk/text/grammar.py": {"llguidance"},
    "flux_vk/text/matching.py": {"llguidance"},
    "flux_vk/train/plot.py": {"matplotlib"},
    "flux_vk/cli/peer_worker.py": {"xllamacpp", "llama_cpp"},
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPO / folder).rglob("*.py"))


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything the file imports, at any depth, `TYPE_CHECKING` included."""
    package = path.relative_to(REPO).with_suffix("").parts[:-1]
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            names += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            names.append((node.lineno, node.args[0].value))
    return names


def room_of(parts: tuple[str, ...]) -> str:
    """A module's room: a folder of ROOMS, "ground", or "top" (the package's root and what `-m` runs).

    What `-m` runs of a room (its `__main__`) is a command line.
    """
    if not parts:
        return "top"
    if parts[-1] == "__main__":
        return "cli"
    if parts[0] in ROOMS:
        return parts[0]
    return "ground" if parts[0] in (*GROUND, "_kompute") else "top"


def forbidden(path: Path) -> list[str]:
    """What the file imports against the table, as 'file:line room imports name'."""
    relative = path.relative_to(PACKAGE).with_suffix("")
    own = room_of(relative.parts if relative.parts != ("__init__",) else ())
    if own == "top":
        return []
    found = []
    for line, name in imported(path):
        parts = tuple(name.split("."))
        if parts[0] != "flux_vk":
            continue
        # `from flux_vk import errors` and `import flux_vk` both end here; the bare package is the top.
        other = room_of(parts[1:])
        native = parts[1:2] == ("_kompute",)
        allowed = other in (own, "ground", *ROOMS.get(own, ())) and (not native or own == "gpu")
        if not allowed:
            found.append(f"{path.relative_to(REPO)}:{line} {own} imports {name}")
    return found


def test_imports_go_up_only() -> None:
    wrong = [line for path in python_files("flux_vk") for line in forbidden(path)]
    assert not wrong, "imports against the room table:\n" + "\n".join(wrong)


def test_the_rule_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "flux_vk"
    (package / "formats").mkdir(parents=True)
    (package / "models").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "REPO", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    source = package / "formats" / "bad.py"
    source.write_text(
        "import flux_vk\nfrom flux_vk.gpu import Device\nfrom ..models import llama\n"
        "def late():\n    import flux_vk.engine.sequence\n"
        "from flux_vk.errors import GGUFError\nfrom . import gguf\nfrom .. import settings\n"
    )
    assert [line.split(":")[1] for line in sorted(forbidden(source))] == [
        "1 formats imports flux_vk",
        "2 formats imports flux_vk.gpu.Device",
        "3 formats imports flux_vk.models.llama",
        "5 formats imports flux_vk.engine.sequence",
    ]


def test_every_folder_of_the_package_is_in_the_room_table() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE}
    assert folders <= set(ROOMS)


def test_third_party_imports_are_declared_dependencies() -> None:
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)
    assert block
    declared = {re.split(r"[<>=\[;]", item)[0] for item in re.findall(r'"([^"]+)"', block.group(1))}
    known = set(sys.stdlib_module_names) | declared | {"flux_vk", "tomli", "tomllib"}
    wrong = []
    for path in python_files("flux_vk"):
        relative = path.relative_to(REPO).as_posix()
        for line, name in imported(path):
            root = name.split(".")[0]
            if root not in known and root not in OPTIONAL.get(relative, ()):
                wrong.append(f"{relative}:{line} imports {root}")
    assert not wrong, "not in [project] dependencies:\n" + "\n".join(wrong)


def test_the_environment_is_read_in_one_place() -> None:
    """flux_vk.settings reads FLUX_VK_* variables; nobody else asks os.environ for them."""
    wrong = []
    for path in python_files("flux_vk"):
        if path == PACKAGE / "settings.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
                wrong.append(f"{path.relative_to(REPO)}:{node.lineno}")
    assert not wrong, "os.environ outside flux_vk/settings.py:\n" + "\n".join(wrong)


def test_no_file_has_grown_into_two() -> None:
    sources = [
        path
        for folder in ("flux_vk", "native", "bench", "tests")
        for path in (REPO / folder).rglob("*")
        if path.suffix in (".py", ".pyi", ".cpp", ".hpp", ".sh")
    ]
    assert sources
    counted = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    long = sorted(f"{path.relative_to(REPO)}: {n} lines" for path, n in counted.items() if n > MAX_LINES)
    assert not long, f"more than {MAX_LINES} lines:\n" + "\n".join(long)


def test_modules_say_what_they_are_for() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in python_files("flux_vk", "native", "bench")}
    silent = [path for path, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert not silent, "no module docstring: " + ", ".join(str(path.relative_to(REPO)) for path in silent)
