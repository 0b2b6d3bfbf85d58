"""Fixtures that every test may use: where things are, fresh random data with a printed seed, a device.

Not for: helpers of one subject (they live beside their tests).
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings

from flux_vk.settings import TEST_SEED, settings

if TYPE_CHECKING:
    from flux_vk.gpu import Device

REPO = Path(__file__).resolve().parent.parent

hypothesis_settings.register_profile("flux_vk", deadline=None, print_blob=True)
hypothesis_settings.load_profile("flux_vk")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's seed and cache folder before xdist starts its workers, which inherit them."""
    os.environ.setdefault(TEST_SEED.name, str(secrets.randbits(32)))
    os.environ.setdefault("FLUX_VK_CACHE_DIR", str(REPO / "build" / "test-cache"))
    # Command lines started by tests import this tree from any working directory.
    paths = [str(REPO), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def pytest_report_header(config: pytest.Config) -> str:
    return f"random data: {TEST_SEED.name}={os.environ[TEST_SEED.name]} (set it to repeat this run)"


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root folder."""
    return REPO


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The Q8_0 demo model that ships with the project."""
    return REPO / "models" / "flux-demo-5m-Q8_0.gguf"


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of large reference data; the test is skipped where it is not there."""
    folder = settings().reference or REPO.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}: name its folder in FLUX_VK_REFERENCE")
    return folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random data that differs from run to run and test to test; FLUX_VK_TEST_SEED repeats it."""
    seed = settings().test_seed
    assert seed is not None, "pytest_configure sets it"
    print(f"{TEST_SEED.name}={seed}")
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(scope="session")
def device() -> Iterator[Device]:
    """One Vulkan device for the whole run: FLUX_VK_DEVICE or the best. Without Vulkan, tests fail."""
    from flux_vk.gpu import Device

    yield Device()
