"""Writes a LoRA adapter of random numbers for a model: `python bench/make_adapter.py MODEL.gguf --rank 32`.

For measuring speed and memory: what it changes is noise, scaled down so that texts stay texts.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path

if __package__ in (None, ""):  # started as a file: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from flux_vk.errors import FluxError, InputError
from flux_vk.formats.adapter import Adapter, LoraPair, gguf_part, peft_names, write_gguf_adapter
from flux_vk.formats.gguf import open_gguf
from flux_vk.models import ModelConfig, read_config
from flux_vk.models.tensors import model_tensors

ALL = "all-linear"
SIZE = 0.01
"""How large the change is beside weights of 1 / sqrt(in)."""


def random_adapter(cfg: ModelConfig, rank: int, targets: list[str], seed: int = 0) -> Adapter:
    """Factors for these target modules (PEFT's names, or "all-linear") in every layer. InputError for unknown ones."""
    names = list(peft_names(cfg.arch)) if targets == [ALL] else targets
    parts = {gguf_part(cfg.arch, name) for name in names}
    pairs = {}
    for spec in model_tensors(cfg):
        place = spec.name.split(".")
        if place[0] == "blk" and place[2] in parts and len(spec.shape) == 2:
            rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
            a = rng.standard_normal((rank, spec.shape[1]), np.float32) / np.float32(np.sqrt(spec.shape[1]))
            b = rng.standard_normal((spec.shape[0], rank), np.float32) * np.float32(SIZE / np.sqrt(rank))
            pairs[spec.name] = LoraPair(a, b)
    return Adapter(cfg.arch, float(rank), pairs, name=f"random numbers for {cfg.name}")


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    p = argparse.ArgumentParser(prog="make_adapter.py", description="Write a LoRA adapter of random numbers.")
    p.add_argument("model", type=Path, metavar="MODEL")
    p.add_argument("--rank", type=int, default=32)
    p.add_argument("--target", default=ALL, help="modules by PEFT's names, e.g. q_proj,v_proj; default all-linear")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--out", type=Path, help="file to write; default MODEL-lora.gguf here")
    args = p.parse_args(argv)
    out = args.out or Path(f"{args.model.stem}-lora.gguf")
    try:
        if args.rank < 1:
            raise InputError(f"--rank {args.rank}: expected at least 1")
        with open_gguf(args.model) as f:
            adapter = random_adapter(read_config(f), args.rank, args.target.split(","), args.seed)
        write_gguf_adapter(adapter, out)
    except (FluxError, OSError) as error:
        print(f"make_adapter.py: {error}", file=sys.stderr)
        return 2
    print(f"{out}: rank {args.rank}, {len(adapter.tensors)} weights, {adapter.nbytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
