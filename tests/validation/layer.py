"""Runs a command under the Khronos validation layer with synchronization validation, and reads what it reported.

Not for: what is run (the tests beside it).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

LAYER = "VK_LAYER_KHRONOS_validation"
_FOLDERS = (
    "/usr/share/vulkan/explicit_layer.d", "/usr/local/share/vulkan/explicit_layer.d", "/etc/vulkan/explicit_layer.d",
    "~/.local/share/vulkan/explicit_layer.d",
)  # fmt: skip


def require_layer() -> None:
    """Skip the test where the layer is not installed."""
    extra = [p for name in ("VK_LAYER_PATH", "VK_ADD_LAYER_PATH") for p in os.environ.get(name, "").split(":") if p]
    for folder in (*extra, *_FOLDERS):
        if any(Path(folder).expanduser().glob("VkLayer_khronos_validation.json")):
            return
    pytest.skip(f"{LAYER} is not installed: apt-get install vulkan-validationlayers (`make test` does)")


@dataclass(frozen=True)
class Outcome:
    """returncode and output of the command; log: what the layer said, one message a line, empty when all is well."""

    returncode: int
    output: str
    log: str

    def check(self, allowed: tuple[int, ...] = (0,)) -> None:
        """Fails on a failed command and on any error, warning or hazard that was reported."""
        assert self.returncode in allowed, f"the command failed ({self.returncode}):\n{self.output[-6000:]}"
        assert not self.log.strip(), f"the validation layer reports:\n{self.log[:6000]}"


def run_under_layer(folder: Path, *arguments: str, timeout: float = 300, **environment: str) -> Outcome:
    """Run Python with these arguments from the repository's root; the layer's log is kept in `folder`."""
    require_layer()
    repo = Path(__file__).resolve().parents[2]
    log = folder / "validation.log"
    (folder / "vk_layer_settings.txt").write_text(
        "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n"
        f"khronos_validation.log_filename = {log}\n"
        "khronos_validation.report_flags = error,warn\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env.update(
        VK_INSTANCE_LAYERS=LAYER,
        VK_LAYER_ENABLES="VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT",
        VK_LAYER_SETTINGS_PATH=str(folder),
        **environment,
    )
    done = subprocess.run(
        [sys.executable, *arguments], cwd=repo, env=env, text=True, timeout=timeout,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert log.exists(), f"the layer was not loaded:\n{done.stdout[-3000:]}"
    return Outcome(done.returncode, done.stdout, log.read_text(errors="replace"))
