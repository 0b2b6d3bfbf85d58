"""What a grammar costs: times of masks and of both halves of a step, and tokens/s with and without, in turns.

    python bench/grammar_cost.py MODEL [--tokens 200] [--repeat 9]

Not for: comparing models or machines (`python -m flux_vk.bench model`).
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import flux_vk as fx
from flux_vk.decode import Drawing
from flux_vk.engine.model import Model

PROMPT = "It was in July"
PEOPLE = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "kind": {"enum": ["man", "woman", "child"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    },
}


def rates(model: Model, tokens: int, repeat: int) -> dict[str, list[float]]:
    """Generated tokens/s by kind of grammar; the first round is not counted."""
    grammars = {"none": None, "any text": fx.Grammar.regex("(?s:.*)"), "JSON": fx.Grammar.from_json_schema(PEOPLE)}
    found: dict[str, list[float]] = {name: [] for name in grammars}
    no_end = dict.fromkeys(model.tokenizer.eog_ids, -np.inf)
    for seed in range(repeat + 1):
        for name, grammar in grammars.items():
            params = fx.SamplingParams(temperature=0.7, seed=seed, logit_bias=no_end)
            generation = model.start(PROMPT, params, max_tokens=tokens, grammar=grammar)
            for _ in generation:
                pass
            if seed:
                found[name].append(generation.timings["generated_per_second"])
    return found


def mask_times(model: Model, tokens: int) -> dict[str, list[float]]:
    """Microseconds of each mask along texts that the grammars allow; nothing else runs meanwhile."""
    found = {}
    for name, grammar in (("any text", fx.Grammar.regex("(?s:.*)")), ("JSON", fx.Grammar.from_json_schema(PEOPLE))):
        generation = model.start(PROMPT, fx.SamplingParams(seed=1), max_tokens=tokens, grammar=grammar)
        written = [token.id for token in generation if token.id not in model.tokenizer.eog_ids]
        matcher, times = model.grammar_vocabulary.matcher(grammar), []
        for token in written:
            started = time.perf_counter()
            matcher.mask()
            times.append(1e6 * (time.perf_counter() - started))
            matcher.accept(token)
        found[name] = times
    return found


def halves(model: Model, repeat: int) -> dict[str, float]:
    """Milliseconds of a replay of the whole decode step and of its halves: the medians."""
    runner = model.runner
    sequence = runner.open_sequence()
    try:
        runner.set_sampling(sequence, fx.SamplingParams(seed=0), [0] * 8)
        runner.prefill(sequence, [0] * 8, sample=True)
        with runner.lock:
            runner.reach(sequence, runner.limits.context - 1)
            batch = runner.open_batch()
            batch.compose([sequence])
            words = np.full(-(-model.config.vocab_size // 32), 0xFFFFFFFF, np.uint32)
            runner.sampler.masks.write(sequence.slot, words)
            masked = Drawing(masked=True)
            chains = {
                "whole step": runner.decode_chain(1, batch.group),
                "forward": runner.forward_chain(1, batch.group),
                "draw": runner.draw_chain(1, batch.group, masked),
            }
            times: dict[str, list[float]] = {name: [] for name in chains}
            for _ in range(repeat):
                for name, chain in chains.items():
                    times[name].append(chain.profile(1).replay_ns / 1e6)
            batch.close()
        return {name: statistics.median(t) for name, t in times.items()}
    finally:
        runner.close_sequence(sequence)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=9)
    args = parser.parse_args()
    with fx.load(args.model, sequences=1) as model:
        print(f"{model.config.name or args.model} on {model.device.name}, vocabulary of {model.config.vocab_size}")
        for name, ms in halves(model, args.repeat).items():
            print(f"  {name:10} {ms:8.3f} ms")
        for name, us in mask_times(model, args.tokens).items():
            print(f"  mask, {name:8} {statistics.median(us):6.0f} us, 95 % below {np.quantile(us, 0.95):.0f}")
        for name, found in rates(model, args.tokens, args.repeat).items():
            median = statistics.median(found)
            spread = (max(found) - min(found)) / median
            print(f"  tokens/s, {name:8} {median:7.1f}, spread {spread:.0%}, most {max(found):.1f}")


if __name__ == "__main__":
    main()
