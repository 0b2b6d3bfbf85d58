"""The environment variables: typed, explained, refused with one clear line; the docs page is theirs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from flux_vk.errors import InputError
from flux_vk.settings import LOG_LEVELS, VARIABLES, environment_page, settings


def test_defaults() -> None:
    found = settings({"HOME": "/home/someone"})
    assert found.device is None
    assert found.log == "warning"
    assert found.cache_dir == Path("/home/someone/.cache/flux_vk")
    assert (found.no_cache, found.markers) == (False, False)
    assert found.steps_ahead is None and settings({"FLUX_VK_STEPS_AHEAD": "auto"}).steps_ahead is None
    assert (found.reference, found.test_seed, found.kompute_sdist) == (None, None, None)


def test_values() -> None:
    found = settings(
        {
            "FLUX_VK_DEVICE": " llvmpipe ",
            "FLUX_VK_LOG": "DEBUG",
            "FLUX_VK_CACHE_DIR": "/var/cache/x",
            "FLUX_VK_NO_CACHE": "yes",
            "FLUX_VK_MARKERS": "1",
            "FLUX_VK_STEPS_AHEAD": "4",
            "FLUX_VK_REFERENCE": "/data/reference",
            "FLUX_VK_TEST_SEED": "17",
            "FLUX_VK_KOMPUTE_SDIST": "/tmp/kp-0.9.0.tar.gz",
        }
    )
    assert found == dataclasses.replace(
        found,
        device="llvmpipe",
        log="debug",
        cache_dir=Path("/var/cache/x"),
        no_cache=True,
        markers=True,
        steps_ahead=4,
        reference=Path("/data/reference"),
        test_seed=17,
        kompute_sdist=Path("/tmp/kp-0.9.0.tar.gz"),
    )


def test_the_process_environment_is_read_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_DEVICE", "1")
    assert settings().device == "1"
    monkeypatch.delenv("FLUX_VK_DEVICE")
    assert settings().device is None


@pytest.mark.parametrize(
    ("xdg", "expected"), [("/c", "/c/flux_vk"), ("relative", "/h/.cache/flux_vk"), ("", "/h/.cache/flux_vk")]
)
def test_xdg_cache_folder(xdg: str, expected: str) -> None:
    assert settings({"HOME": "/h", "XDG_CACHE_HOME": xdg}).cache_dir == Path(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLUX_VK_NO_CACHE", "perhaps"),
        ("FLUX_VK_MARKERS", "2"),
        ("FLUX_VK_LOG", "loud"),
        ("FLUX_VK_TEST_SEED", "x"),
    ],
)
def test_bad_values_are_named(name: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"{name}='{value}': expected .*; correct or unset it"):
        settings({name: value})


def test_every_field_has_a_variable_and_the_page_is_up_to_date(repo_root: Path) -> None:
    fields = {f"FLUX_VK_{field.name.upper()}" for field in dataclasses.fields(settings({}))}
    assert fields == {variable.name for variable in VARIABLES}
    page = (repo_root / "docs" / "environment.md").read_text(encoding="utf-8")
    assert page == environment_page(), "run: python -m flux_vk.settings > docs/environment.md"
    assert all(level in page for level in LOG_LEVELS)


def test_no_other_variable_is_used(repo_root: Path) -> None:
    """Whatever the sources, the build and the docs call FLUX_VK_SOMETHING is a variable of this page."""
    cmake_options = {"FLUX_VK_INPLACE", "FLUX_VK_FETCH_DIR"}
    known = {variable.name for variable in VARIABLES} | cmake_options
    kinds = (".py", ".cpp", ".hpp", ".md", ".sh")
    files = [repo_root / "CMakeLists.txt", repo_root / "Makefile", repo_root / "README.md"]
    for folder in ("flux_vk", "native", "docs", "bench", "tests"):
        files += [path for path in (repo_root / folder).rglob("*") if path.suffix in kinds]
    for path in files:
        if path.exists() and path != Path(__file__):
            used = set(re.findall(r"\bFLUX_VK_[A-Z_]+\b", path.read_text(encoding="utf-8")))
            assert used <= known, f"{path.relative_to(repo_root)}: {used - known} not in settings.py"
