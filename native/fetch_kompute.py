"""Brings Kompute's C++ sources to a folder of the build: fetched by pip or from a local copy, hash checked.

Not for: compiling them (CMakeLists.txt does). Standard library only; it runs before anything is installed.
Usage: python native/fetch_kompute.py --out DIR     prints the folder that holds src/Manager.cpp
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

RELEASE = "kp-0.9.0"
REQUIREMENT = "kp==0.9.0"
SHA256 = "98e583dc6e9731ff6d7a3e3317817e4d93f7b2945929619e29a56325db279949"
VARIABLE = "FLUX_VK_KOMPUTE_SDIST"  # described in flux_vk/settings.py, which this script must not import
_PROOF = PurePosixPath("src/Manager.cpp")


class FetchError(Exception):
    """The sources could not be had; the message says what was tried and what to do."""


def fetch(out: Path, local: Path | None = None) -> Path:
    """Return a folder with Kompute's sources: `local` if it is one, else `out/kp-0.9.0`, unpacked once."""
    if local is not None and local.is_dir():
        for folder in (local, local / RELEASE):
            if (folder / _PROOF).is_file():
                return folder.resolve()
        raise FetchError(f"{VARIABLE}={local}: a folder without {_PROOF}; name an unpacked {RELEASE} release")
    if local is not None and not local.is_file():
        raise FetchError(f"{VARIABLE}={local}: no such file or folder; name {RELEASE}.tar.gz or unset it")
    target = out / RELEASE
    if (target / _PROOF).is_file():
        return target.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        archive = local or download(Path(scratch))
        check(archive)
        unpack(archive, Path(scratch) / "unpacked")
        try:
            (Path(scratch) / "unpacked" / RELEASE).rename(target)
        except OSError:  # another build was faster
            if not (target / _PROOF).is_file():
                raise
    return target.resolve()


def download(folder: Path) -> Path:
    """Fetch the source release through pip into `folder`."""
    # pip's isolated builds point PYTHONPATH at a folder of their own; a pip found there is used first.
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    arguments = [
        "download",
        "--no-binary",
        ":all:",
        "--no-deps",
        "--quiet",
        "--dest",
        str(folder),
        REQUIREMENT,
    ]
    attempts = [([sys.executable, "-m", "pip"], dict(os.environ)), ([sys.executable, "-m", "pip"], plain)]
    found = shutil.which("pip3") or shutil.which("pip")
    if found:
        attempts.append(([found], plain))
    said = ""
    for command, environment in attempts:
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        archive = folder / f"{RELEASE}.tar.gz"
        if done.returncode == 0 and archive.is_file():
            return archive
        said = (done.stderr or done.stdout).strip() or said
    raise FetchError(
        f"Kompute's source release {REQUIREMENT} could not be fetched with pip:\n{said}\n"
        f"Without a network: get {RELEASE}.tar.gz from https://pypi.org/project/kp/0.9.0/#files and set "
        f"{VARIABLE}=/path/to/{RELEASE}.tar.gz"
    )


def check(archive: Path) -> None:
    """Raise FetchError unless the archive is the release, byte for byte."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise FetchError(
            f"{archive}: sha256 {found}, expected {SHA256}; this is not the {RELEASE} source release"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the (checked) archive's regular files below `folder`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.is_absolute() or ".." in path.parts:
                continue
            content = tar.extractfile(member)
            assert content is not None
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content.read())


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch Kompute's C++ sources.")
    parser.add_argument("--out", type=Path, required=True, help="folder to unpack into")
    arguments = parser.parse_args()
    local = os.environ.get(VARIABLE, "").strip()
    try:
        print(fetch(arguments.out, Path(local).expanduser() if local else None))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
