"""The build: metadata, Kompute's sources by hash, system packages, a wheel that runs alone.

Not for: kernels or the native module's behaviour (tests/gpu).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import flux_vk


@pytest.fixture(scope="module")
def fetch_kompute(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_kompute", repo_root / "native" / "fetch_kompute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive_of(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_version_is_the_same_everywhere(repo_root: Path) -> None:
    text = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.M)
    assert found and found.group(1) == flux_vk.__version__


def test_build_extra_equals_the_build_requirements(repo_root: Path) -> None:
    """`make` builds with the packages of the extra; pip with those of [build-system] (and pip itself)."""
    text = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    requires = re.search(r"^requires = \[(.*)\]$", text, re.M)
    extra = re.search(r"^build = \[(.*)\]$", text, re.M)
    assert requires and extra
    assert set(re.findall(r'"([^"]+)"', requires.group(1))) == {
        "pip",
        *re.findall(r'"([^"]+)"', extra.group(1)),
    }


def test_console_scripts_have_their_functions(repo_root: Path) -> None:
    text = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    scripts = re.findall(r'^flux-vk-\w+ = "flux_vk\.(\w+):(\w+)"$', text, re.M)
    assert {module for module, _ in scripts} == {"run", "info", "bench"}
    for module, function in scripts:
        source = (repo_root / "flux_vk" / f"{module}.py").read_text(encoding="utf-8")
        assert f"\ndef {function}(" in source, f"flux_vk/{module}.py has no {function}()"


def test_the_model_page_names_the_model_file(demo_model: Path) -> None:
    page = (demo_model.parent / "README.md").read_text(encoding="utf-8")
    assert demo_model.name in page
    assert hashlib.sha256(demo_model.read_bytes()).hexdigest() in page


def test_kompute_from_a_local_folder(fetch_kompute: ModuleType, tmp_path: Path) -> None:
    unpacked = tmp_path / "kp-0.9.0" / "src"
    unpacked.mkdir(parents=True)
    (unpacked / "Manager.cpp").touch()
    for named in (tmp_path, tmp_path / "kp-0.9.0"):
        assert fetch_kompute.fetch(tmp_path / "out", named) == tmp_path / "kp-0.9.0"
    with pytest.raises(fetch_kompute.FetchError, match="a folder without src/Manager.cpp"):
        fetch_kompute.fetch(tmp_path / "out", unpacked)
    with pytest.raises(fetch_kompute.FetchError, match="no such file or folder"):
        fetch_kompute.fetch(tmp_path / "out", tmp_path / "nothing")


def test_kompute_from_a_local_archive(
    fetch_kompute: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash decides, nothing is written outside the folder, and the second call does not unpack again."""
    files = {"kp-0.9.0/src/Manager.cpp": "// one", "../outside": "no", "/absolute": "no"}
    archive = archive_of(tmp_path / "kp-0.9.0.tar.gz", files)
    with pytest.raises(fetch_kompute.FetchError, match=r"sha256 [0-9a-f]{64}, expected 98e583dc"):
        fetch_kompute.fetch(tmp_path / "out", archive)
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr(fetch_kompute, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    folder = fetch_kompute.fetch(tmp_path / "out", archive)
    assert (folder / "src" / "Manager.cpp").read_text() == "// one"
    assert not list(tmp_path.rglob("outside")) and not list(tmp_path.rglob("absolute"))
    archive.write_bytes(b"broken now, and not looked at")
    assert fetch_kompute.fetch(tmp_path / "out", archive) == folder


def packages(repo_root: Path, tmp_path: Path, **tools: str) -> subprocess.CompletedProcess[str]:
    """Run the check for system packages with nothing on PATH but bash's own needs and fakes named here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "basename"):
        (folder / name).symlink_to(shutil.which(name) or "/bin/false")
    for name, script in tools.items():
        fake = folder / name.replace("_", "-")
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
    return subprocess.run(
        ["bash", str(repo_root / "native" / "system_packages.sh"), "test", "python3"],
        env={"PATH": str(folder), "VK_LAYER_PATH": "", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_packages_without_rights_print_the_line_to_run(repo_root: Path, tmp_path: Path) -> None:
    done = packages(repo_root, tmp_path, id="echo 1000", apt_get="exit 9")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1].strip()
    assert line.startswith(
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends g++ cmake "
    )
    assert {"libvulkan-dev", "libfmt-dev", "glslang-tools", "spirv-tools", "python3-venv"} <= set(
        line.split()
    )


def test_packages_elsewhere_are_named(repo_root: Path, tmp_path: Path) -> None:
    done = packages(repo_root, tmp_path, id="echo 0")
    assert done.returncode == 1
    assert "by their Debian names: g++ cmake glslang-tools" in done.stderr


def test_packages_as_root_are_installed(repo_root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = shutil.which("env") or "env"
    script = f'echo "apt-get $*" >> {log}'
    done = packages(repo_root, tmp_path, id="echo 0", apt_get=script, env=f'exec {environment} "$@"')
    assert done.returncode == 0, done.stderr
    update, install = log.read_text().splitlines()
    assert update == "apt-get update"
    assert install.startswith("apt-get install -y --no-install-recommends g++ cmake ")


def test_a_failing_install_stops(repo_root: Path, tmp_path: Path) -> None:
    done = packages(repo_root, tmp_path, id="echo 0", apt_get="exit 100")
    assert done.returncode == 1
    assert "By hand: sudo apt-get update && sudo apt-get install" in done.stderr


def build_wheel(repo_root: Path, folder: Path) -> Path:
    """A wheel of this tree. The objects stay in build/, so a second run compiles only what has changed."""
    build = ["--config-settings=build-dir=build/wheel-{wheel_tag}", "--no-build-isolation", "--no-deps"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        *build,
        "--wheel-dir",
        str(folder),
        str(repo_root),
    ]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (found,) = folder.glob("*.whl")
    return found


def check_content(wheel: Path, repo_root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert [name for name in names if name.endswith(".so")] == [f"flux_vk/_kompute{suffix}"]
    assert {"flux_vk/py.typed", "flux_vk/spirv/index.json", "flux_vk/demo/flux-demo-5m-Q8_0.gguf"} <= names
    agents = {path.name for path in (repo_root / "flux_vk" / "flux" / "agents").glob("*.flx")}
    assert agents and agents == {Path(name).name for name in names if name.startswith("flux_vk/flux/agents/")}
    sources = {path.relative_to(repo_root).as_posix() for path in (repo_root / "flux_vk").rglob("*.py")}
    assert sources <= names
    kernels = {path.stem for path in (repo_root / "kernels").glob("*.toml")}
    assert kernels == {Path(name).stem.split("--")[0] for name in names if name.endswith(".spv")}
    top = {name.split("/")[0] for name in names}
    assert len(top) == 2 and "flux_vk" in top, f"only the package and its metadata belong in the wheel: {top}"


@pytest.mark.slow
def test_wheel(repo_root: Path, tmp_path: Path) -> None:
    """It holds what running needs; installed into a venv and called from another folder, it runs."""
    wheel = build_wheel(repo_root, tmp_path)
    check_content(wheel, repo_root)
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    purelib = next(home.glob("lib/python*/site-packages"))
    # The dependencies come from this environment: a .pth adds its folder, but not the links (.pth) inside it.
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", *install]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )

    where = call("-c", "import flux_vk, flux_vk._kompute as k; print(flux_vk.__file__); print(k.__file__)")
    assert where.returncode == 0, where.stderr
    assert all(line.startswith(str(home)) for line in where.stdout.splitlines()), where.stdout
    info = call("-m", "flux_vk.info")
    assert info.returncode == 0, info.stderr
    run = call("-m", "flux_vk.run", "-p", "It was in July", "-n", "4", "--temperature", "0", "--json")
    assert run.returncode == 0, run.stderr
    assert '"finish_reason"' in run.stdout
