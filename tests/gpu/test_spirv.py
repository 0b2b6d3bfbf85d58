"""The SPIR-V that was built does what the contracts say, and a contract that drifts away from it is caught."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.errors import ContractError
from flux_vk.gpu import kernels, spirv
from flux_vk.gpu.contract import PushField

BUILT = [(c.name, v.name) for c in kernels.contracts().values() for v in c.variants]


@pytest.mark.parametrize(("kernel", "variant"), BUILT, ids=[f"{k}--{v}" for k, v in BUILT])
def test_no_drift(kernel: str, variant: str) -> None:
    code = kernels.spirv(kernel, variant)
    c = kernels.contract(kernel)
    spirv.check_against(c, variant, code)
    found = spirv.reflect(code)
    assert found.access, "a kernel without bindings"
    assert any(c.bindings[n].writes for n in found.access), "a kernel that writes nothing"


def test_what_is_read_back() -> None:
    found = spirv.reflect(kernels.spirv("rms_norm", "default"))
    c = kernels.contract("rms_norm")
    assert found.access == {i: b.access for i, b in enumerate(c.bindings)}
    assert found.push_names == [p.name for p in c.push]
    assert found.push_bytes == c.push_bytes
    assert found.spec_ids == set(range(len(c.spec)))


def test_drift_is_detected() -> None:
    c = kernels.contract("rms_norm")
    code = kernels.spirv("rms_norm", "default")
    x, w, y = c.bindings
    for changed, message in (
        (replace(c, bindings=(replace(x, access="read_write"), w, y)), "SPIR-V has x as read, the contract as read_wr"),
        (replace(c, bindings=(x, w, replace(y, access="read"))), "SPIR-V has y as write, the contract as read"),
        (replace(c, bindings=(y, w, x)), "SPIR-V has y as read, the contract as write"),
        (replace(c, bindings=(x, w)), "SPIR-V uses binding 2, the contract has 2"),
        (replace(c, push=c.push[::-1]), "another order"),
        (replace(c, push=c.push[:-1]), "push bytes, the contract 8"),
        (replace(c, push=(*c.push, PushField("extra", "uint"))), "push bytes, the contract 16"),
        (replace(c, push=(*c.push[:-1], replace(c.push[-1], type="uint"))), "push types .*'float'.* contract others"),
        (replace(c, spec=()), "SPIR-V uses constant id 0, the contract has 0"),
    ):
        with pytest.raises(ContractError, match=message):
            spirv.check_against(changed, "default", code)


def test_not_spirv() -> None:
    code = kernels.spirv("rms_norm", "default")
    for bad in (b"", b"abc", b"\0" * 64, code[:16], b"\x7fELF" + code[4:]):
        with pytest.raises(ContractError, match="not SPIR-V"):
            spirv.reflect(bad)
    with pytest.raises(ContractError, match="damaged, or ends within an instruction"):
        spirv.reflect(code[:20] + (0x00010047).to_bytes(4, "little"))  # OpDecorate of one word


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 2**32 - 1)), min_size=1, max_size=4))
def test_damaged_code_is_refused_or_read(changes: list[tuple[int, int]]) -> None:
    code = bytearray(kernels.spirv("rms_norm", "default"))
    for at, word in changes:
        at = 4 * (at % (len(code) // 4))
        code[at : at + 4] = word.to_bytes(4, "little")
    try:
        spirv.check_against(kernels.contract("rms_norm"), "default", bytes(code))
    except ContractError:
        pass
