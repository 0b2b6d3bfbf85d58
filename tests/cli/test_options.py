"""The options of the run command: what is refused, in one line that names the option; what is understood."""

from __future__ import annotations

import math

import pytest

from flux_vk.cli.options import DEFAULT_TOKENS, demo_model, parse
from flux_vk.decode import SamplingParams


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["-p", "x", "-n", "0"], "--max-tokens"),
        (["-p", "x", "-n", "-5"], "--max-tokens"),
        (["-p", "x", "-n", "many"], "--max-tokens"),
        (["-p", "x", "-c", "0"], "--context"),
        (["-p", "x", "-t", "-1"], "--temperature"),
        (["-p", "x", "-t", "nan"], "--temperature"),
        (["-p", "x", "-t", "inf"], "--temperature"),
        (["-p", "x", "--top-k", "-1"], "--top-k"),
        (["-p", "x", "--top-p", "1.5"], "--top-p"),
        (["-p", "x", "--min-p", "-0.1"], "--min-p"),
        (["-p", "x", "--repeat-penalty", "0"], "--repeat-penalty"),
        (["-p", "x", "--frequency-penalty", "nan"], "--frequency-penalty"),
        (["-p", "x", "--seed", "-1"], "--seed"),
        (["-p", "x", "--samplers", "top_k;heat"], "'heat'"),
        (["-p", "x", "--samplers", "top_k;min_p;top-k"], "top_k twice"),
        (["-p", "x", "--samplers", "kk"], "top_k twice"),
        (["-p", "x", "--typical", "2"], "--typical"),
        (["-p", "x", "--top-n-sigma", "nan"], "--top-n-sigma"),
        (["-p", "x", "--xtc-probability", "1.1"], "--xtc-probability"),
        (["-p", "x", "--dry-allowed-length", "-1"], "--dry-allowed-length"),
        (["-p", "x", "--dry-penalty-last-n", "-2"], "--dry-penalty-last-n"),
        (["-p", "x", "--dry-sequence-breaker", ""], "--dry-sequence-breaker"),
        (["-p", "x", "--mirostat", "3"], "--mirostat"),
        (["-p", "x", "--mirostat", "1", "--samplers", "k"], "--samplers"),
        (["-p", "x", "--adaptive-decay", "1"], "--adaptive-decay"),
        (["-p", "x", "--logit-bias", "5"], "--logit-bias"),
        (["-p", "x", "--logit-bias", "5+inf"], "--logit-bias"),
        (["-p", "x", "--logit-bias", "5+x"], "--logit-bias"),
        (["-p", "x", "--seed", str(2**64)], "--seed"),
        (["-p", "x", "--logprobs", "21"], "--logprobs"),
        (["-p", "x", "--kv-type", "q8"], "--kv-type"),
        (["-p", "x", "--stop", ""], "--stop"),
        (["-p", "x", "--lora", ""], "--lora"),
        (["-p", "x", "--grammar", ""], "--grammar"),
        (["-p", "x", "--grammar", "a", "--json-schema", "b"], "--json-schema"),
        (["-p", "x", "--device", ""], "--device"),
        (["-p", "x", "-f", "y"], "--file"),
        (["-p"], "--prompt"),
        (["", "-p", "x"], "MODEL"),
        (["--json"], "--json"),
        (["--profile"], "--profile"),
        (["--logprobs", "1"], "--logprobs"),
        (["-p", "x", "--system", "s"], "--system"),
        (["--no-chat", "--system", "s"], "--system"),
        (["--temp", "1"], "--temp"),
        (["a.gguf", "b.gguf"], "b.gguf"),
    ],
)
def test_refused(argv: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(argv)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert err.startswith("flux_vk: ") and err.count("\n") == 1 and named in err


def test_what_is_not_given_is_left_to_the_defaults() -> None:
    options = parse(["-p", "x"])
    assert options.sampling == {} and options.max_tokens == DEFAULT_TOKENS and options.chat is None
    assert options.model == demo_model() and not options.interactive
    assert parse([]).interactive and parse([]).max_tokens is None


def test_everything_given_arrives() -> None:
    options = parse(
        "m.gguf -f - -n 5 -c 64 -t 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --repeat-penalty 1.1 "
        "--frequency-penalty -0.5 --presence-penalty 0.25 --repeat-last-n 8 --seed 18446744073709551615 --logprobs 2 "
        "--device 1 --chat --system s --stop a --stop b --json --quiet --profile --kv-type f32 "
        "--context-shift --debug --lora a/ --lora b.gguf:0.5".split()
    )
    assert options.sampling == {
        "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "repeat_penalty": 1.1, "repeat_last_n": 8,
        "frequency_penalty": -0.5, "presence_penalty": 0.25, "seed": 2**64 - 1, "logprobs": 2,
    }  # fmt: skip
    assert (options.file, options.max_tokens, options.context, options.kv_type) == ("-", 5, 64, "f32")
    assert options.stop == ("a", "b") and options.chat and options.system == "s" and options.device == "1"
    assert options.lora == ("a/", "b.gguf:0.5")
    assert options.json and options.quiet and options.profile and options.context_shift and options.debug


def test_every_sampler_has_its_options() -> None:
    options = parse(
        "-p x --typical 0.5 --top-n-sigma 1.5 --xtc-probability 0.25 --xtc-threshold 0.2 --dry-multiplier 0.8 "
        "--dry-base 2 --dry-allowed-length 3 --dry-penalty-last-n 100 --dry-sequence-breaker a "
        "--dry-sequence-breaker b --dynatemp-range 0.5 --dynatemp-exp 2 --mirostat-lr 0.2 --mirostat-ent 4 "
        "--adaptive-target 0.3 --adaptive-decay 0.5 --logit-bias 7+1.5 --logit-bias 8-inf --samplers kt".split()
    )
    assert options.sampling == {
        "typical_p": 0.5, "top_n_sigma": 1.5, "xtc_probability": 0.25, "xtc_threshold": 0.2, "dry_multiplier": 0.8,
        "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 100, "dry_sequence_breakers": ("a", "b"),
        "dynatemp_range": 0.5, "dynatemp_exponent": 2.0, "mirostat_eta": 0.2, "mirostat_tau": 4.0,
        "adaptive_target": 0.3, "adaptive_decay": 0.5, "logit_bias": {7: 1.5, 8: -math.inf}, "samplers": "kt",
    }  # fmt: skip
    assert SamplingParams(**options.sampling).sampler_order == ("top_k", "temperature")
    assert parse(["-p", "x", "--dry-sequence-breaker", "none"]).sampling == {"dry_sequence_breakers": ()}
    assert parse(["-p", "x", "--mirostat", "2"]).sampling == {"mirostat": 2}
