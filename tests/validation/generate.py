"""Run by test_validation.py: a prompt and 16 tokens of a model, once per way of sampling; then five prompts together,
without grammars, some with one, whose steps are two submits, and some with agents that vote.

    python generate.py MODEL KV_TYPE
"""

from __future__ import annotations

import os
import sys

import flux_vk as fx


def main(path: str, kv_type: str) -> None:
    ways = [
        fx.SamplingParams(temperature=0),
        fx.SamplingParams(temperature=0.8, top_k=20, repeat_penalty=1.1, presence_penalty=0.1, seed=1, logprobs=3),
        fx.SamplingParams(temperature=1.0, top_k=0, top_p=0.9, min_p=0.0, frequency_penalty=0.2, seed=2),
        fx.SamplingParams(dry_multiplier=0.8, xtc_probability=0.5, mirostat=0, dynatemp_range=0.3, seed=3),
        fx.SamplingParams(mirostat=1, seed=4),
        fx.SamplingParams(samplers="temperature;typ_p;penalties", typical_p=0.7, repeat_penalty=1.1, seed=5),
    ]
    with fx.load(path, kv_type=kv_type) as model:
        for params in ways:
            generation = model.start("It was in July, 1805, and the speaker was", params, max_tokens=16)
            for _ in generation:
                pass
            assert 1 <= len(generation.tokens) <= 16, generation.tokens
            print(repr(generation.text))
        model.logits(generation.prompt_tokens)
        prompts = ["It was in July", "Prince Andrew", "The commander in chief " * 8, "Natasha", "He"]
        schema = fx.Grammar.from_json_schema({"type": "array", "items": {"enum": ["a", 1, None]}})
        for grammars in ([None] * 5, [schema, None, fx.Grammar.regex("[a-z]{9}"), schema, None]):
            with model.start_many(prompts, ways[:5], max_tokens=[16, 9, 3, 16, 2], grammar=grammars) as many:
                for _ in many:
                    pass
            assert all(g.tokens and g.finish_reason in ("stop", "length") for g in many.generations)
        swarm = fx.Swarm(["conservative", "penalty"], vote="prob", trust_rate=0.2)
        swarms = [swarm, None, fx.Swarm.default(), fx.Swarm(["greedy"], candidates="all")]
        swarms.append(fx.Swarm(["min_p"], vote="borda"))
        with model.start_many(prompts, ways[:5], max_tokens=[16, 9, 3, 12, 2], agents=swarms) as many:
            for step, _ in enumerate(many):
                if step == 7:
                    swarm.replace("penalty", "uniform")
        assert all(g.tokens for g in many.generations)
        banning = fx.SamplingParams(seed=2, logit_bias={generation.tokens[0]: float("-inf")})
        generation = model.start(prompts[0], banning, max_tokens=6, agents=swarm, trace=os.devnull)
        assert all(token.vote is not None for token in generation)


if __name__ == "__main__":
    main(*sys.argv[1:])
