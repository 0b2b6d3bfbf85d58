"""Build step: every kernels/*.toml and its shader to SPIR-V, plus index.json with all contracts.

Run by CMake and by `make shaders`; by hand with --kernels and --shaders for kernels outside the project, which may
include the project's shared heads (docs/adding-a-kernel.md). Needs only the standard library and glslangValidator.
Incremental: a variant is compiled again only when its contract, its shader, a shared head or this script has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from coopmat_khr import RewriteError, to_khr  # noqa: E402  (beside this script)

from flux_vk.errors import FluxError  # noqa: E402  (the package is not installed while it is being built)
from flux_vk.gpu.contract import Contract, Variant, glsl_interface, load  # noqa: E402

# What the contract's head cannot say, because it is itself included.
HEAD = "#version 450\n#extension GL_GOOGLE_include_directive : require\n#line 2\n"


def sources_digest(shaders: Path) -> bytes:
    """Hash of what every kernel depends on: shared heads and the generator."""
    digest = hashlib.sha256()
    shared = [p for f in dict.fromkeys((shaders, ROOT / "shaders")) for p in sorted((f / "include").glob("*.glsl"))]
    generator = [Path(__file__), ROOT / "native" / "coopmat_khr.py", ROOT / "flux_vk" / "gpu" / "contract.py"]
    for path in [*shared, *generator]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


def head_folder(generated: Path, contract: Contract, variant: Variant) -> Path:
    """Where the generated head of a contract lies for the shader of this variant."""
    return generated / contract.name / Path(variant.shader).stem


def compile_variant(
    contract: Contract, variant: Variant, shaders: Path, generated: Path, out: Path, base: bytes
) -> str | None:
    """Compile one variant unless it is up to date. Returns the compiler's complaint, or None."""
    source = shaders / variant.shader
    if not source.exists():
        return f"{contract.name}: shader {source} does not exist"
    stamp = hashlib.sha256(base + source.read_bytes() + repr((contract.to_json(), variant)).encode()).hexdigest()
    target = out / f"{contract.name}--{variant.name}.spv"
    mark = out / f"{contract.name}--{variant.name}.stamp"
    if target.exists() and mark.exists() and mark.read_text() == stamp:
        return None
    defines = [f"-D{key}={value}" for key, value in variant.defines.items()]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "out.spv"
        prepared = Path(folder) / variant.shader
        prepared.write_text(source.read_text().replace("#version 450\n", HEAD, 1))
        command = [
            os.environ.get("GLSLANG_VALIDATOR", "glslangValidator"), "-V", "--target-env", "vulkan1.2",
            f"-I{head_folder(generated, contract, variant)}", f"-I{shaders}", f"-I{shaders / 'include'}",
            f"-I{ROOT / 'shaders'}", f"-I{ROOT / 'shaders' / 'include'}", *defines,
            str(prepared), "-o", str(made),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{contract.name}--{variant.name}: {done.stdout}{done.stderr}"
        code = made.read_bytes()
        if variant.rewrite == "coopmat_khr":
            try:
                code = to_khr(code)
            except RewriteError as error:
                return f"{contract.name}--{variant.name}: no KHR form: {error}"
        partial = target.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(code)
        partial.replace(target)
    mark.write_text(stamp)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for *.spv and index.json")
    parser.add_argument("--only", action="append", help="compile only this kernel (may be repeated)")
    parser.add_argument("--kernels", type=Path, default=ROOT / "kernels", help="folder of the contracts, *.toml")
    parser.add_argument("--shaders", type=Path, help="folder of the shaders; default: beside those contracts")
    parser.add_argument("--generated", type=Path, help="folder for the generated GLSL heads")
    options = parser.parse_args()
    own = options.kernels.resolve() != ROOT / "kernels"
    shaders = (options.shaders or (options.kernels if own else ROOT / "shaders")).resolve()
    if own and options.out.resolve() == ROOT / "flux_vk" / "spirv":
        print(f"--out {options.out} holds the project's kernels; give others another folder", file=sys.stderr)
        return 2
    if not any(options.kernels.glob("*.toml")):
        print(f"--kernels {options.kernels}: found no contract (*.toml) there", file=sys.stderr)
        return 2
    generated = (options.generated or (options.out / "gen" if own else ROOT / "build" / "gen")).resolve()
    generated.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        contracts = [
            load(path)
            for path in sorted(options.kernels.glob("*.toml"))
            if not options.only or path.stem in options.only
        ]
    except FluxError as error:
        print(error, file=sys.stderr)
        return 2
    for contract in contracts:
        for variant in {v.shader: v for v in contract.variants}.values():
            head = head_folder(generated, contract, variant) / f"{contract.name}.contract.glsl"
            head.parent.mkdir(parents=True, exist_ok=True)
            head.write_text(glsl_interface(contract, variant.shader))
    base = sources_digest(shaders)
    jobs = [(c, v) for c in contracts for v in c.variants]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        complaints = list(pool.map(lambda j: compile_variant(j[0], j[1], shaders, generated, options.out, base), jobs))
    failed = [c for c in complaints if c]
    for complaint in failed:
        print(complaint, file=sys.stderr)
    index_path = options.out / "index.json"
    index = json.loads(index_path.read_text()) if options.only and index_path.exists() else {}
    index.update({c.name: c.to_json() for c in contracts})
    partial = index_path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(index, indent=1))
    partial.replace(index_path)
    if not options.only:
        wanted = {f"{c.name}--{v.name}" for c, v in jobs}
        for stale in [p for p in options.out.iterdir() if p.suffix in (".spv", ".stamp") and p.stem not in wanted]:
            stale.unlink()
    print(f"{len(jobs) - len(failed)} of {len(jobs)} shader variants in {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
