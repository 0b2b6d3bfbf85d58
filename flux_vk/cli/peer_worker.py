"""One measurement of llama.cpp through a Python binding, in a process of its own: prints {"pp", "tg", "backend"}.

Started by peers.py. Neither xllamacpp nor llama_cpp is a dependency of this package.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

SLACK = 16
Rates = tuple[float, float]


def main(argv: list[str]) -> int:
    """Arguments: binding, model, prompt tokens, generated tokens, threads, layers on a GPU."""
    binding, model = argv[0], argv[1]
    pp, tg, threads, layers = (int(a) for a in argv[2:6])
    measure: dict[str, Callable[[str, int, int, int, int], Rates]] = {"xllamacpp": _xllamacpp, "llama_cpp": _llama_cpp}
    rates = measure[binding](model, pp, tg, threads, layers)
    time.sleep(0.05)  # a server's log threads finish their lines
    print("\n" + json.dumps({"pp": rates[0], "tg": rates[1], "backend": backend(layers)}), flush=True)
    return 0


def backend(layers: int) -> str:
    """What this process has loaded to compute with: a GPU library counts when layers were meant for it."""
    try:
        loaded = Path("/proc/self/maps").read_text()
    except OSError:
        return "unknown"
    libraries = {"Vulkan": ("ggml-vulkan", "libvulkan.so"), "CUDA": ("ggml-cuda", "libcudart"), "HIP": ("ggml-hip",)}
    found = [name for name, parts in libraries.items() if any(part in loaded for part in parts)]
    return "+".join(found) if found and layers else "CPU"


def _ids(n: int, rng: random.Random) -> list[int]:
    return [rng.randrange(300, 900) for _ in range(n)]


def _xllamacpp(model: str, pp: int, tg: int, threads: int, layers: int) -> Rates:
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = model
    p.n_ctx, p.n_parallel, p.n_gpu_layers = pp + tg + SLACK, 1, layers
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.verbosity = -1
    server = xllamacpp.Server(p)
    rng = random.Random(0)

    def timed(n_prompt: int, n: int) -> dict[str, float]:
        found = server.handle_completions({
            "prompt": _ids(n_prompt, rng), "max_tokens": n, "temperature": 0, "cache_prompt": False,
            "ignore_eos": True,
        })  # fmt: skip
        timings: dict[str, float] = found["timings"]
        return timings

    timed(pp, 1)  # not counted, as in flux_vk's benchmark
    prompt = timed(pp, 1)
    generated = timed(1, tg)
    if generated["predicted_n"] != tg:
        print(f"xllamacpp: {generated['predicted_n']} tokens came, expected {tg}", file=sys.stderr)
        raise SystemExit(1)
    return prompt["prompt_per_second"], generated["predicted_per_second"]


def _llama_cpp(model: str, pp: int, tg: int, threads: int, layers: int) -> Rates:
    import llama_cpp

    llama = llama_cpp.Llama(
        model_path=model, n_ctx=pp + tg + SLACK, n_threads=threads, n_threads_batch=threads, n_gpu_layers=layers,
        n_batch=max(pp, 1), verbose=False,
    )  # fmt: skip
    rng = random.Random(0)
    for _ in range(2):  # the first is not counted
        llama.reset()
        ids = _ids(pp, rng)
        started = time.perf_counter()
        llama.eval(ids)
        token = llama.sample(temp=0.0)
        prompt = pp / (time.perf_counter() - started)
    llama.reset()
    llama.eval(_ids(1, rng))
    token = llama.sample(temp=0.0)
    started = time.perf_counter()
    for _ in range(tg - 1):
        llama.eval([token])
        token = llama.sample(temp=0.0)
    return prompt, (tg - 1) / (time.perf_counter() - started)
