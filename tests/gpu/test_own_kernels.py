"""Kernels of a folder outside the package: compiled, registered, run, replaced, left; what is wrong is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flux_vk.errors import ContractError
from flux_vk.gpu import Chain, Device, NullDevice, kernels

CONTRACT = """
name = "twice"
summary = "x times {factor}, in place."
symbols = ["N"]
[[bindings]]
name = "x"
access = "{access}"
type = "f32"
shape = ["N"]
[[push]]
name = "N"
type = "uint"
value = "N"
[workgroup]
size = ["64", "1", "1"]
[dispatch]
grid = ["ceil_div(N, 64)", "1", "1"]
"""
SHADER = """#version 450
#include "twice.contract.glsl"
#include "include/math.glsl"
void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < p.N) x[i] *= FACTOR;
}
"""


def compile_folder(root: Path, source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = str(root / "native" / "compile_shaders.py")
    command = [sys.executable, script, "--kernels", str(source), "--out", str(source / "out"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(folder: Path, factor: str = "2.0", name: str = "twice", access: str = "read_write") -> None:
    folder.mkdir(exist_ok=True)
    contract = CONTRACT.format(factor=factor, access=access)
    (folder / f"{name}.toml").write_text(contract.replace('"twice"', f'"{name}"'))
    (folder / f"{name}.comp").write_text(SHADER.replace("FACTOR", factor).replace("twice.", f"{name}."))


@pytest.fixture
def folder(tmp_path: Path, repo_root: Path) -> Iterator[Path]:
    """A folder with the compiled kernel `twice`; left again after the test."""
    write(tmp_path / "mine")
    done = compile_folder(repo_root, tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    yield tmp_path / "mine" / "out"
    kernels.leave_folder(tmp_path / "mine" / "out")


def run(device: Device) -> float:
    x = device.array(np.full(100, 3.0, np.float32))
    chain = Chain(device)
    chain.twice(x=x)
    chain.run()
    got = x.numpy()
    assert (got == got[0]).all()
    return float(got[0])


@pytest.mark.kernel
def test_use_change_and_leave(device: Device, folder: Path, repo_root: Path) -> None:
    """A changed shader takes effect with the next use_folder, also on a device that has run the old one."""
    assert kernels.use_folder(folder) == ("twice",)
    assert run(device) == 6.0
    write(folder.parent, "5.0")
    assert compile_folder(repo_root, folder.parent).returncode == 0
    assert run(device) == 6.0
    assert kernels.use_folder(str(folder)) == ("twice",)
    assert run(device) == 15.0
    kernels.leave_folder(folder)
    with pytest.raises(AttributeError, match="there is no kernel 'twice'"):
        run(device)


def test_compiling_again_does_nothing(folder: Path, repo_root: Path) -> None:
    before = (folder / "twice--default.spv").stat().st_mtime_ns
    assert compile_folder(repo_root, folder.parent).returncode == 0
    assert (folder / "twice--default.spv").stat().st_mtime_ns == before


def test_a_name_of_the_package_needs_replace(tmp_path: Path, repo_root: Path) -> None:
    write(tmp_path, name="add")
    assert compile_folder(repo_root, tmp_path).returncode == 0
    own = kernels.contract("add")
    with pytest.raises(ContractError, match="there is a kernel 'add' already; rename yours, or pass replace=True"):
        kernels.use_folder(tmp_path / "out")
    assert kernels.contract("add") == own
    try:
        kernels.use_folder(tmp_path / "out", replace=True)
        assert kernels.contract("add").symbols == ("N",)
        assert kernels.spirv("add", "default") == (tmp_path / "out" / "add--default.spv").read_bytes()
    finally:
        kernels.leave_folder(tmp_path / "out")
    assert kernels.contract("add") == own


def test_two_folders_with_one_name(folder: Path, repo_root: Path, tmp_path: Path) -> None:
    kernels.use_folder(folder)
    write(tmp_path / "other", "7.0")
    assert compile_folder(repo_root, tmp_path / "other").returncode == 0
    with pytest.raises(ContractError, match="there is a kernel 'twice' already"):
        kernels.use_folder(tmp_path / "other" / "out")


def test_what_is_wrong_is_named(folder: Path, tmp_path: Path) -> None:
    known = dict(kernels.contracts())
    with pytest.raises(ContractError, match=r"nothing/index.json does not exist: compile it with native/compile_sh"):
        kernels.use_folder(tmp_path / "nothing")
    index = (folder / "index.json").read_text()
    for broken in ("{", "[]", '{"a": {}}', index.replace('"symbols"', '"other"')):
        (folder / "index.json").write_text(broken)
        with pytest.raises(ContractError, match=r"index.json cannot be read"):
            kernels.use_folder(folder)
    (folder / "index.json").write_text(index.replace("read_write", "read"))
    with pytest.raises(ContractError, match="SPIR-V has x as read_write, the contract as read"):
        kernels.use_folder(folder)
    (folder / "index.json").write_text(index)
    (folder / "twice--default.spv").unlink()
    with pytest.raises(ContractError, match=r"twice--default.spv does not exist"):
        kernels.use_folder(folder)
    assert dict(kernels.contracts()) == known


def test_without_vulkan(folder: Path) -> None:
    """Contracts suffice for the null device: chains are built, checked and explained."""
    kernels.use_folder(folder)
    device = NullDevice()
    chain = Chain(device)
    chain.twice(x=device.empty((65,)))
    assert "twice grid 2x1x1" in chain.explain()


def test_the_script_says_what_is_wrong(tmp_path: Path, repo_root: Path) -> None:
    done = compile_folder(repo_root, tmp_path / "empty")
    assert (done.returncode, done.stdout) == (2, "") and "found no contract" in done.stderr
    write(tmp_path, access="nonsense")
    done = compile_folder(repo_root, tmp_path)
    assert done.returncode == 2 and "access 'nonsense', expected read, write or read_write" in done.stderr
    write(tmp_path, "undefined")
    done = compile_folder(repo_root, tmp_path)
    assert done.returncode == 1 and "'undefined' : undeclared identifier" in done.stderr
    script = [sys.executable, str(repo_root / "native" / "compile_shaders.py"), "--kernels", str(tmp_path)]
    done = subprocess.run([*script, "--out", str(repo_root / "flux_vk" / "spirv")], capture_output=True, text=True)
    assert done.returncode == 2 and "holds the project's kernels" in done.stderr


def test_the_project_is_not_touched(folder: Path, repo_root: Path) -> None:
    """Heads of outside kernels are generated beside their SPIR-V."""
    assert (folder / "gen" / "twice" / "twice" / "twice.contract.glsl").exists()
    assert not (repo_root / "build" / "gen" / "twice").exists()
    assert not os.path.exists(repo_root / "flux_vk" / "spirv" / "twice--default.spv")
