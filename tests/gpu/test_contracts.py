"""Contracts: every malformed one is refused with the key at fault, every real one is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flux_vk.errors import ArgumentError, ContractError
from flux_vk.gpu import expressions, kernels
from flux_vk.gpu.contract import Contract, glsl_interface, load

GOOD = """\
name = "scale"
summary = "y = factor * x."
symbols = ["R", "D"]

[[bindings]]
name = "x"
access = "read"
type = "*"
shape = ["R", "D"]
glsl = { x = "float", x4 = "vec4" }

[[bindings]]
name = "w"
access = "read"
type = "f32"
shape = ["D"]
optional = true

[[bindings]]
name = "y"
access = "write"
type = "f32"
shape = ["R", "D"]

[[push]]
name = "n"
type = "uint"
value = "R*D"

[[push]]
name = "r0"
type = "uint"
default = 0

[[push]]
name = "factor"
type = "float"

[[spec]]
name = "WG"
type = "uint"
default = 64
choices = [64, 128]

[workgroup]
size = ["WG", "1", "1"]

[dispatch]
grid = ["ceil_div(n, WG)", "1", "1"]

[cost]
bytes = "8*R*D"
flops = "R*D"

[tolerance]
nmse = 0

[[variants]]
name = "plain"
types = { x = "f32" }

[[variants]]
name = "half"
types = { x = "f16" }
requires = ["float16"]
prefer = "gpu"
defines = { HALF = 1 }

[window]
binding = "x"
push = "r0"
"""


def from_text(folder: Path, text: str) -> Contract:
    path = folder / "scale.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_a_good_one(tmp_path: Path) -> None:
    c = from_text(tmp_path, GOOD)
    assert [p.name for p in c.push] == ["n", "r0", "factor", "has_w"]
    assert c.push_bytes == 16
    assert c.variant("half").requires == ("float16",)
    assert Contract.from_json(json.loads(json.dumps(c.to_json()))) == c
    with pytest.raises(ContractError, match="has no variant 'quarter'; it has plain, half"):
        c.variant("quarter")


def test_views_of_one_shader(tmp_path: Path) -> None:
    """A shader may see a binding in a way of its own; the others do not, and no other shader can be named."""
    shader = from_text(tmp_path, GOOD).variants[0].shader
    where = 'glsl = { x = "float", x4 = "vec4" }'
    assert where in GOOD
    c = from_text(tmp_path, GOOD.replace(where, where + f'\nglsl_in = {{ "{shader}" = {{ x8 = "u64vec4" }} }}'))
    assert Contract.from_json(json.loads(json.dumps(c.to_json()))) == c
    assert "buffer B_x8 { u64vec4 x8[]; };" in glsl_interface(c, shader)
    assert "x8" not in glsl_interface(c, "other.comp")
    with pytest.raises(ContractError, match="glsl_in names 'other.comp'"):
        from_text(tmp_path, GOOD.replace(where, where + '\nglsl_in = { "other.comp" = { x8 = "uint" } }'))


def test_the_interface_block(tmp_path: Path) -> None:
    c = from_text(tmp_path, GOOD)
    lines = glsl_interface(c, c.variants[0].shader).splitlines()
    for line in (
        "layout(constant_id = 0) const uint WG = 64;",
        "layout(local_size_x_id = 0, local_size_y = 1, local_size_z = 1) in;",
        "layout(set = 0, binding = 0, std430) readonly buffer B_x { float x[]; };",
        "layout(set = 0, binding = 0, std430) readonly buffer B_x4 { vec4 x4[]; };",
        "layout(set = 0, binding = 1, std430) readonly buffer B_w { float w[]; };",
        "layout(set = 0, binding = 2, std430) writeonly buffer B_y { float y[]; };",
        "layout(push_constant, std430) uniform Push { uint n; uint r0; float factor; uint has_w; } p;",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "scale"', 'name = "other"', "name is 'other', expected the file's own name 'scale'"),
        ('summary = "y = factor * x."', "", "key 'summary' is missing"),
        ('summary = "y = factor * x."', 'summary = ""', "summary is empty"),
        ('summary = "y = factor * x."', "summary = ", "not valid TOML"),
        ("[cost]", "[costs]", "unknown key 'costs'"),
        ("optional = true", "optonal = true", r"unknown key 'optonal' in \[bindings\]"),
        ("default = 0", "defalt = 0", r"unknown key 'defalt' in \[push\]"),
        ('access = "write"', 'access = "append"', "binding y: access 'append', expected read, write or read_write"),
        ('access = "write"\ntype = "f32"', 'access = "write"\ntype = "f64"', "binding y: type 'f64'"),
        ('access = "write"\n', "", "key 'access' is missing"),
        ('shape = ["D"]', 'shape = ["E"]', "binding w shape: 'E' uses 'E', which nothing defines"),
        ('name = "w"', 'name = "x"', "two bindings are called 'x'"),
        ('name = "r0"\ntype', 'name = "n"\ntype', "two push fields are called 'n'"),
        ('name = "half"', 'name = "plain"', "two variants are called 'plain'"),
        ('x4 = "vec4"', 'y = "vec4"', "two GLSL arrays are called 'y'"),
        ('type = "float"', 'type = "double"', "push factor: type 'double', expected one of uint, int, float"),
        ('value = "R*D"', 'value = "R*Q"', "push n: 'R\\*Q' uses 'Q'"),
        ('value = "R*D"', 'value = "R*"', "does not parse"),
        ('type = "uint"\ndefault = 64', 'type = "half"\ndefault = 64', "constant WG: type 'half'"),
        ("default = 64", "default = 32", r"constant WG: default 32 is not among its choices \[64, 128\]"),
        ('size = ["WG", "1", "1"]', 'size = ["WG"]', "three entries"),
        ('"ceil_div(n, WG)", "1", "1"', '"ceil_div(n, WG)"', "three entries"),
        ('"ceil_div(n, WG)"', '"ceil_div(m, WG)"', "grid: 'ceil_div\\(m, WG\\)' uses 'm'"),
        ('bytes = "8*R*D"', 'bytes = "8*R*E"', "cost: '8\\*R\\*E' uses 'E'"),
        ("nmse = 0", 'nmse = "none"', "wrong type"),
        ('push = "r0"', 'push = "r1"', "window push field 'r1' is not in the push list"),
        ('binding = "x"', 'binding = "z"', "window binding 'z' is no binding"),
        ('types = { x = "f16" }', "types = { }", "binding x: type \\* needs an entry in the `types` of every variant"),
        ('types = { x = "f16" }', 'types = { x = "f16", z = "f16" }', "variant half: types names 'z'"),
        ('prefer = "gpu"', 'prefer = "tpu"', "variant half: prefer is 'tpu'"),
        ('shape = ["D"]', "", "binding w: without a shape, `elements` says"),
        ('shape = ["D"]', 'elements = "E"', "binding w elements: 'E' uses 'E'"),
        ("[workgroup]", "[[workgroup]]", "wrong type"),
        ('[[spec]]\nname = "WG"', "[[spec]]", "key 'name' is missing"),
    ],
)
def test_malformed(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1, "the test changes exactly one place"
    with pytest.raises(ContractError, match=message) as error:
        from_text(tmp_path, GOOD.replace(old, new))
    assert str(tmp_path / "scale.toml") in str(error.value)


def test_too_many_push_fields(tmp_path: Path) -> None:
    more = "".join(f'[[push]]\nname = "f{i}"\ntype = "float"\n\n' for i in range(29))
    with pytest.raises(ContractError, match="push constants take 132 bytes, expected at most 128"):
        from_text(tmp_path, GOOD.replace("[[spec]]", more + "[[spec]]"))


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "scale.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ContractError, match="not valid TOML"):
        load(tmp_path / "scale.toml")


def test_choosing_a_variant(tmp_path: Path) -> None:
    c = from_text(tmp_path, GOOD)
    assert kernels.choose(c, {"x": "f16", "y": "f32"}, {"float16"}, "cpu").name == "half"
    with pytest.raises(ArgumentError, match=r"scale \(half\) needs float16, which this device lacks"):
        kernels.choose(c, {"x": "f16"}, set(), "cpu")
    with pytest.raises(ArgumentError, match="scale has no variant for x u32; it has x f16; x f32"):
        kernels.choose(c, {"x": "u32"}, set(), "cpu")
    both = from_text(tmp_path, GOOD.replace('x = "f16"', 'x = "f32"'))
    assert kernels.choose(both, {"x": "f32"}, {"float16"}, "gpu").name == "half"
    assert kernels.choose(both, {"x": "f32"}, {"float16"}, "cpu").name == "plain"
    assert kernels.choose(both, {"x": "f32"}, set(), "gpu").name == "plain"


def test_an_unknown_kernel_gets_close_names() -> None:
    with pytest.raises(ContractError, match="no kernel 'rms_nrom'; did you mean .*rms_norm"):
        kernels.contract("rms_nrom")


def test_the_index_is_that_of_the_sources(repo_root: Path) -> None:
    sources = {p.stem: load(p) for p in (repo_root / "kernels").glob("*.toml")}
    assert set(kernels.contracts()) == set(sources), "run `make shaders`"
    for name, c in kernels.contracts().items():
        assert c == sources[name], f"{name}: run `make shaders`"


@pytest.mark.parametrize("name", sorted(kernels.contracts()))
def test_real_contracts_are_complete(name: str, repo_root: Path) -> None:
    c = kernels.contract(name)
    assert c.summary.endswith(".") and "\n" not in c.summary
    assert 0 <= c.nmse <= (5e-4 if name != "quantize" else 0.1)  # quantising loses more than any arithmetic
    assert any(b.writes for b in c.bindings)
    assert all((repo_root / "shaders" / v.shader).exists() for v in c.variants)
    values: dict[str, int | float] = dict.fromkeys(c.symbols, 64)
    values.update({s.name: s.default for s in c.spec})
    values.update({p.name: 64 for p in c.push})
    values.update(c.cost_arguments)
    values.update({f"{b.name}_bytes": 64 for b in c.bindings})
    assert expressions.evaluate(c.cost_bytes, values) > 0, "cost in bytes"
    assert expressions.evaluate(c.cost_flops, values) >= 0
    assert all(expressions.evaluate(e, values) >= 1 for e in c.grid)
    for s in c.spec:
        for choice in s.choices:
            lanes = 1
            for e in c.workgroup:
                lanes *= int(expressions.evaluate(e, {**values, s.name: choice}))
            assert 1 <= lanes <= 1024, f"{s.name}={choice}"
