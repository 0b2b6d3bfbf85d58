"""Kernels, recordings and the engine under the Vulkan validation layer: no error, no warning, no SYNC-HAZARD.

The first tests show that the layer is really looking: a barrier taken out of a chain is reported.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.validation.layer import run_under_layer

pytestmark = pytest.mark.validation
HERE = Path(__file__).resolve().parent
KERNEL_TESTS = sorted(
    path.relative_to(HERE.parents[1]).as_posix()
    for folder in ("gpu", "decode", "flux", "train")
    for path in (HERE.parent / folder).glob("test_*.py")
    if "pytest.mark.kernel" in path.read_text(encoding="utf-8")
)
RECORDING_TESTS = [
    f"tests/gpu/test_{name}.py"
    for name in ("buffer", "device", "pipelines", "profile", "random_chains", "record", "upload")
]
REPORTED = {
    "RAW": "SYNC-HAZARD-READ-AFTER-WRITE",
    "WAR": "SYNC-HAZARD-WRITE-AFTER-READ",
    "WAW": "SYNC-HAZARD-WRITE-AFTER-WRITE",
    "indirect": "SYNC-HAZARD-READ-AFTER-WRITE",
    "copy": "SYNC-HAZARD-READ-AFTER-WRITE",
}


@pytest.mark.parametrize("hazard", REPORTED)
def test_a_barrier_taken_out_is_reported(tmp_path: Path, hazard: str) -> None:
    outcome = run_under_layer(tmp_path, "-m", "tests.validation.two_steps", hazard, "removed")
    assert outcome.returncode == 0, outcome.output
    assert REPORTED[hazard] in outcome.log


@pytest.mark.parametrize("hazard", REPORTED)
def test_the_derived_barrier_is_enough(tmp_path: Path, hazard: str) -> None:
    run_under_layer(tmp_path, "-m", "tests.validation.two_steps", hazard, "kept").check()


@pytest.mark.parametrize("path", KERNEL_TESTS)
def test_kernels(tmp_path: Path, path: str) -> None:
    """Whether the results are right is judged where these tests run by themselves (1: some failed)."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "kernel")
    run_under_layer(tmp_path, "-m", "pytest", *options, path).check(allowed=(0, 1))


@pytest.mark.parametrize("path", RECORDING_TESTS)
def test_recordings(tmp_path: Path, path: str) -> None:
    run_under_layer(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", path).check()


@pytest.mark.parametrize(("family", "ahead"), [("cpu", "1"), ("gpu", "4")])
@pytest.mark.parametrize("kv_type", ["f16", "f32"])
def test_prefill_and_decode(tmp_path: Path, demo_model: Path, kv_type: str, family: str, ahead: str) -> None:
    """With the kernels made for llvmpipe and with those made for GPUs, and as many steps in flight as may be there."""
    arguments = ("-m", "tests.validation.generate", str(demo_model), kv_type)
    run_under_layer(tmp_path, *arguments, FLUX_VK_FAMILY=family, FLUX_VK_STEPS_AHEAD=ahead).check()


@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_shared_contexts(tmp_path: Path, family: str) -> None:
    """Decoding beyond one chunk of attention: workgroups hand their parts to the last one, from replay to replay."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/engine/test_split_context.py")
    run_under_layer(tmp_path, "-m", "pytest", *options, FLUX_VK_FAMILY=family, FLUX_VK_PREFILL="exact").check()


@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_adapters(tmp_path: Path, family: str) -> None:
    """Products that add to rows in place, behind others that wrote them."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/models/test_lora_step.py")
    run_under_layer(tmp_path, "-m", "pytest", *options, "-k", "equals_merged and llama", FLUX_VK_FAMILY=family).check()


def test_every_kernel_is_covered() -> None:
    """A kernel without a test of its own would not be looked at here."""
    from flux_vk.gpu import kernels

    root = HERE.parents[1]
    text = "".join((root / path).read_text(encoding="utf-8") for path in KERNEL_TESTS)
    for module in ("gpu.ops", "gpu.matmul", "gpu.gemm", "decode.sampling"):  # functions that append several kernels
        if f"flux_vk.{module}" in text:
            text += (root / "flux_vk" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    missing = [name for name in kernels.contracts() if name not in text]
    assert not missing, f"no kernel test mentions {', '.join(missing)}"
