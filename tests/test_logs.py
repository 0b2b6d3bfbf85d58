"""Logging: off by default, to standard error, set up once however often it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from flux_vk.errors import InputError
from flux_vk.logs import setup_logging


@pytest.fixture(autouse=True)
def untouched_logger() -> Iterator[None]:
    logger = logging.getLogger("flux_vk")
    before = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(before[0])
    logger.handlers[:], logger.propagate = before[1], before[2]


def test_level_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLUX_VK_LOG", "debug")
    setup_logging()
    logging.getLogger("flux_vk.gpu").debug("pipeline %s built", "rms_norm")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith("D flux_vk.gpu: pipeline rms_norm built\n")


def test_quiet_by_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FLUX_VK_LOG", raising=False)
    setup_logging()
    logging.getLogger("flux_vk.gpu").info("not shown")
    logging.getLogger("flux_vk.gpu").warning("shown")
    assert [line.split(": ")[-1] for line in capsys.readouterr().err.splitlines()] == ["shown"]


def test_twice_prints_once_and_the_argument_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLUX_VK_LOG", "error")
    setup_logging()
    logger = setup_logging("info")
    logger.info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_unknown_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_VK_LOG", "loud")
    with pytest.raises(InputError, match="FLUX_VK_LOG"):
        setup_logging()
