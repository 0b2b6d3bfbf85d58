"""Other programs that run GGUF files: found on PATH or as Python packages, asked for prompt and generated tokens/s.

Each run is a process of its own. Not for: comparing (bench_peers.py), or what a binding does in there (peer_worker.py).
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_vk.errors import FluxError, InputError

ROOT = Path(__file__).resolve().parents[2]
_BOOT = "import sys; sys.path.insert(0, {root!r}); from {module} import main; sys.exit(main(sys.argv[1:]))"
_RATE = re.compile(r"([\d.]+) tokens per second")


@dataclass(frozen=True)
class Ask:
    """What is measured: a prompt of `pp` tokens, and `tg` tokens generated."""

    model: Path
    pp: int
    tg: int
    threads: int
    gpu_layers: int


@dataclass(frozen=True)
class Answer:
    """Tokens per second, and what the other program ran on ("CPU", "Vulkan", ...)."""

    pp: float
    tg: float
    backend: str


@dataclass(frozen=True)
class Peer:
    """A program that was found: its name, where it is, how it is asked."""

    name: str
    where: str
    ask: Callable[[str, Ask], Answer]

    def run(self, ask: Ask) -> Answer:
        """One measurement in a process of its own. Raises FluxError with its last words where it fails."""
        return self.ask(self.where, ask)


def find(wanted: str | None = None) -> Peer:
    """The first that is here, or the one named. InputError says what was looked for."""
    for name, ask in _BINARIES.items():
        where = shutil.which(name) if wanted in (None, name) else None
        if where is not None:
            return Peer(name, where, ask)
    for name in BINDINGS:
        if wanted in (None, name) and importlib.util.find_spec(name) is not None:
            return Peer(name, name, _binding)
    if wanted is not None:
        kind = "Python package" if wanted in BINDINGS else "program on PATH"
        raise InputError(f"--peer {wanted}: there is no such {kind}")
    raise InputError(
        f"no llama.cpp was found; looked for {', '.join(_BINARIES)} on PATH and for the Python packages "
        f"{', '.join(BINDINGS)}: install one of them, for example with pip install xllamacpp"
    )


def python(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs `main` of one of this package's modules in a new process, installed or not."""
    return [sys.executable, "-c", _BOOT.format(root=str(ROOT), module=module), *arguments]


def output(command: Sequence[str], name: str) -> tuple[str, str]:
    """What a process wrote to stdout and stderr. FluxError with its last line where it fails."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise FluxError(f"{name} cannot be started: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no message"])[-1]
        raise FluxError(f"{name} ended with code {done.returncode}: {last}")
    return done.stdout, done.stderr


def _json(text: str, name: str) -> Any:
    """The JSON that is all of a text, or its last line."""
    for part in (text, (text.strip().splitlines() or [""])[-1]):
        try:
            return json.loads(part)
        except json.JSONDecodeError:
            continue
    raise FluxError(f"{name} wrote no JSON: {text.strip()[-200:]!r}")


def _llama_bench(where: str, a: Ask) -> Answer:
    command = [where, "-m", str(a.model), "-p", str(a.pp), "-n", str(a.tg), "-r", "1", "-t", str(a.threads)]
    out, _ = output([*command, "-ngl", str(a.gpu_layers), "-o", "json"], "llama-bench")
    found: dict[str, float] = {}
    backend = "CPU"
    for line in _json(out, "llama-bench"):
        kind = "pp" if line.get("n_prompt") else "tg"
        found[kind] = float(line["avg_ts"])
        backend = _backend_of(line, a.gpu_layers)
    if set(found) != {"pp", "tg"}:
        raise FluxError(f"llama-bench told {', '.join(found) or 'nothing'}; expected a prompt test and a generation")
    return Answer(found["pp"], found["tg"], backend)


def _backend_of(line: dict[str, Any], gpu_layers: int) -> str:
    """Newer versions name the backends of the build; what has no layers on it did not count."""
    names = [n for n in re.split(r"[,\s]+", str(line.get("backends", ""))) if n and n not in ("CPU", "BLAS", "RPC")]
    names = names or [n.capitalize() for n in ("vulkan", "cuda", "metal", "sycl") if line.get(n) is True]
    layers = int(line.get("n_gpu_layers", gpu_layers))
    return "+".join(names) if names and layers else "CPU"


def _llama_cli(where: str, a: Ask) -> Answer:
    """The program's own lines about time; a short word repeated stands for the prompt's tokens."""
    command = [where, "-m", str(a.model), "-p", " the" * a.pp, "-n", str(a.tg), "-t", str(a.threads), "--temp", "0"]
    command += ["-ngl", str(a.gpu_layers), "-c", str(a.pp + a.tg + 64), "--ignore-eos", "-no-cnv"]
    _, said = output(command, Path(where).name)
    rates = {}
    for line in said.splitlines():
        found = _RATE.search(line)
        if found is not None and "eval time" in line:
            rates["pp" if "prompt eval" in line else "tg"] = float(found.group(1))
    if set(rates) != {"pp", "tg"}:
        raise FluxError(f"{Path(where).name} told no times; expected lines with 'eval time' on stderr")
    loaded = [name for name in ("Vulkan", "CUDA", "Metal", "SYCL") if f"ggml_{name.lower()}" in said]
    return Answer(rates["pp"], rates["tg"], "+".join(loaded) if loaded and a.gpu_layers else "CPU")


def _binding(where: str, a: Ask) -> Answer:
    arguments = [where, str(a.model), str(a.pp), str(a.tg), str(a.threads), str(a.gpu_layers)]
    found = _json(output(python("flux_vk.cli.peer_worker", arguments), where)[0], where)
    return Answer(float(found["pp"]), float(found["tg"]), str(found["backend"]))


_BINARIES: dict[str, Callable[[str, Ask], Answer]] = {
    "llama-bench": _llama_bench, "llama-completion": _llama_cli, "llama-cli": _llama_cli,
}  # fmt: skip
BINDINGS = ("xllamacpp", "llama_cpp")
NAMES = (*_BINARIES, *BINDINGS)
