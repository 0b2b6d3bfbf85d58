"""Kernel contracts: kernels/NAME.toml read into data, and the GLSL interface block made from them.

Stdlib only, because the build imports it too. Knows nothing of devices; `flux_vk.gpu.kernels` picks variants.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ContractError
from . import expressions

SCALAR_BYTES = {"f32": 4, "u32": 4, "i32": 4, "f16": 2, "bf16": 2, "u16": 2, "i16": 2, "u8": 1, "i8": 1}
GLSL_SCALAR = {
    "f32": "float", "u32": "uint", "i32": "int", "f16": "float16_t", "bf16": "uint16_t",
    "u16": "uint16_t", "i16": "int16_t", "u8": "uint8_t", "i8": "int8_t",
}  # fmt: skip
PUSH_TYPES = {"uint": "I", "int": "i", "float": "f"}
TEXELS = "usamplerBuffer"  # a view of this type makes the binding a texel buffer in that shader
MAX_PUSH_BYTES = 128  # what every Vulkan device offers


@dataclass(frozen=True)
class Binding:
    """One storage buffer of a kernel."""

    name: str
    access: str
    type: str
    shape: tuple[str, ...] = ()
    glsl: dict[str, str] = field(default_factory=dict)
    glsl_in: dict[str, dict[str, str]] = field(default_factory=dict)  # further views, by the shader that has them
    optional: bool = False
    elements: str | None = None  # the fewest the kernel touches, where the shape alone does not say it
    coherent: bool = False  # workgroups of one dispatch read what others of it wrote
    same_as: str | None = None  # the binding whose buffer this one has too, so that it can be read in another way

    @property
    def reads(self) -> bool:
        return self.access in ("read", "read_write")

    @property
    def writes(self) -> bool:
        return self.access in ("write", "read_write")


@dataclass(frozen=True)
class PushField:
    """A 4-byte push constant; `value` is an expression of the symbols, else the caller passes it."""

    name: str
    type: str
    value: str | None = None
    default: int | float | None = None


@dataclass(frozen=True)
class SpecConstant:
    """A specialization constant; its id is its place in the list."""

    name: str
    type: str
    default: int
    choices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One compiled form: defines, the dtypes it is for, the device features it needs."""

    name: str
    shader: str
    defines: dict[str, int | str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    prefer: str | None = None
    subgroup: str | None = None  # the constant that says of how many invocations every subgroup must be
    rewrite: str | None = None  # what is done to the compiled module; native/compile_shaders.py knows the words


@dataclass(frozen=True)
class Window:
    """A binding that is split by rows where it is larger than one descriptor may bind."""

    binding: str
    push: str


@dataclass(frozen=True)
class Contract:
    """The whole interface of a kernel."""

    name: str
    summary: str
    source: str
    symbols: tuple[str, ...]
    bindings: tuple[Binding, ...]
    push: tuple[PushField, ...]
    spec: tuple[SpecConstant, ...]
    workgroup: tuple[str, ...]
    grid: tuple[str, ...]
    cost_bytes: str
    cost_flops: str
    nmse: float
    variants: tuple[Variant, ...]
    window: Window | None = None
    cost_arguments: dict[str, int] = field(default_factory=dict)  # what only the costs know, with its default

    @property
    def push_bytes(self) -> int:
        return 4 * len(self.push)

    def binding(self, name: str) -> Binding:
        return next(b for b in self.bindings if b.name == name)

    def variant(self, name: str) -> Variant:
        for v in self.variants:
            if v.name == name:
                return v
        known = ", ".join(v.name for v in self.variants)
        raise ContractError(f"kernel {self.name} has no variant {name!r}; it has {known}")

    def texel_mask(self, shader: str) -> int:
        """A bit for every binding that the shader reads as a texel buffer."""
        return sum(1 << i for i, b in enumerate(self.bindings) if is_texel(views_in(b, shader)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(d: dict[str, Any]) -> Contract:
        return Contract(
            name=d["name"], summary=d["summary"], source=d["source"], symbols=tuple(d["symbols"]),
            bindings=tuple(Binding(**{**b, "shape": tuple(b["shape"])}) for b in d["bindings"]),
            push=tuple(PushField(**p) for p in d["push"]),
            spec=tuple(SpecConstant(**{**s, "choices": tuple(s["choices"])}) for s in d["spec"]),
            workgroup=tuple(d["workgroup"]), grid=tuple(d["grid"]), cost_bytes=d["cost_bytes"],
            cost_flops=d["cost_flops"], nmse=d["nmse"],
            variants=tuple(Variant(**{**v, "requires": tuple(v["requires"])}) for v in d["variants"]),
            window=Window(**d["window"]) if d["window"] else None, cost_arguments=dict(d["cost_arguments"]),
        )  # fmt: skip


def load(path: Path) -> Contract:
    """Read and check one contract. Raises ContractError naming file and key."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise ContractError(f"{path}: not valid TOML: {error}") from None
    try:
        contract = _build(data)
        check(contract)
    except KeyError as error:
        raise ContractError(f"{path}: key {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ContractError(f"{path}: a key has a value of the wrong type: {error}") from None
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from None
    if contract.name != path.stem:
        raise ContractError(f"{path}: name is {contract.name!r}, expected the file's own name {path.stem!r}")
    return contract


_KEYS = {
    "": "name shader summary source symbols bindings push spec workgroup dispatch cost tolerance variants window",
    "bindings": "name access type shape glsl glsl_in optional elements coherent same_as",
    "push": "name type value default",
    "spec": "name type default choices",
    "workgroup": "size",
    "dispatch": "grid",
    "cost": "bytes flops arguments",
    "tolerance": "nmse",
    "variants": "name shader defines types requires prefer subgroup rewrite",
    "window": "binding push",
}


def _check_keys(table: dict[str, Any], place: str = "") -> None:
    known = _KEYS[place].split()
    for key, value in table.items():
        if key not in known:
            where = f" in [{place}]" if place else ""
            raise ContractError(f"unknown key {key!r}{where}; known are {', '.join(known)}")
        if not place and key in _KEYS:
            for inner in value if isinstance(value, list) else [value]:
                _check_keys(inner, key)


def _build(d: dict[str, Any]) -> Contract:
    _check_keys(d)
    bindings = tuple(
        Binding(
            name=b["name"], access=b["access"], type=b["type"], shape=tuple(str(s) for s in b.get("shape", [])),
            glsl=dict(b.get("glsl", {})) or {b["name"]: GLSL_SCALAR.get(b["type"], "uint")},
            glsl_in={shader: dict(views) for shader, views in b.get("glsl_in", {}).items()},
            optional=bool(b.get("optional", False)), elements=b.get("elements"),
            coherent=bool(b.get("coherent", False)), same_as=b.get("same_as"),
        )
        for b in d["bindings"]
    )  # fmt: skip
    push = [PushField(p["name"], p["type"], p.get("value"), p.get("default")) for p in d.get("push", [])]
    push += [
        PushField(f"has_{b.name}", "uint")
        for b in bindings
        if b.optional and all(p.name != f"has_{b.name}" for p in push)
    ]
    spec = [
        SpecConstant(s["name"], s["type"], s["default"], tuple(s.get("choices", []))) for s in d.get("spec", [])
    ]
    shader = d.get("shader", f"{d['name']}.comp")
    variants = [
        Variant(
            v["name"], v.get("shader", shader), dict(v.get("defines", {})), dict(v.get("types", {})),
            tuple(v.get("requires", [])), v.get("prefer"), v.get("subgroup"), v.get("rewrite"),
        )
        for v in d.get("variants", [{"name": "default"}])
    ]  # fmt: skip
    cost = d.get("cost", {})
    window = Window(**d["window"]) if "window" in d else None
    return Contract(
        name=d["name"], summary=d["summary"], source=d.get("source", ""),
        symbols=tuple(d.get("symbols", [])), bindings=bindings, push=tuple(push), spec=tuple(spec),
        workgroup=tuple(str(s) for s in d["workgroup"]["size"]),
        grid=tuple(str(s) for s in d["dispatch"]["grid"]),
        cost_bytes=str(cost.get("bytes", "0")), cost_flops=str(cost.get("flops", "0")),
        nmse=float(d.get("tolerance", {}).get("nmse", 1e-7)), variants=tuple(variants), window=window,
        cost_arguments=dict(cost.get("arguments", {})),
    )  # fmt: skip


def check(c: Contract) -> None:
    """Consistency of a contract within itself. Raises ContractError."""
    if not c.summary:
        raise ContractError("summary is empty: say in one line what the kernel does")
    _check_unique(c)
    _check_bindings(c)
    _check_constants(c)
    known = _known(c)
    if len(c.grid) != 3 or len(c.workgroup) != 3:
        raise ContractError("grid and workgroup size need three entries each")
    sizes = {f"{b.name}_bytes" for b in c.bindings}
    for what, exprs, names in (
        ("grid", c.grid, known),
        ("workgroup", c.workgroup, known),
        ("cost", (c.cost_bytes, c.cost_flops), known | sizes | set(c.cost_arguments)),
    ):
        for e in exprs:
            _check_names(what, e, names)
    if c.window and c.window.push not in {p.name for p in c.push}:
        raise ContractError(f"window push field {c.window.push!r} is not in the push list")
    if c.window and not any(b.name == c.window.binding and b.shape[:1] and b.shape[0] in c.symbols for b in c.bindings):
        raise ContractError(f"window binding {c.window.binding!r} is no binding whose first dimension is a symbol")


def _known(c: Contract) -> set[str]:
    return {*c.symbols, *(p.name for p in c.push), *(s.name for s in c.spec)}


def _check_unique(c: Contract) -> None:
    for what, names in (
        ("bindings", [b.name for b in c.bindings]),
        ("push fields", [p.name for p in c.push]),
        ("constants", [s.name for s in c.spec]),
        ("numbers", [*_known(c), *c.cost_arguments]),
        ("variants", [v.name for v in c.variants]),
        *(("GLSL arrays", [v for b in c.bindings for v in views_in(b, s)]) for s in {v.shader for v in c.variants}),
    ):
        if len(set(names)) < len(names):
            raise ContractError(f"two {what} are called {next(n for n in names if names.count(n) > 1)!r}")


def _check_bindings(c: Contract) -> None:
    for b in c.bindings:
        if b.type not in SCALAR_BYTES and b.type != "*":
            raise ContractError(f"binding {b.name}: type {b.type!r}, expected * or one of {', '.join(SCALAR_BYTES)}")
        if b.type == "*" and any(b.name not in v.types for v in c.variants):
            raise ContractError(f"binding {b.name}: type * needs an entry in the `types` of every variant")
        if b.access not in ("read", "write", "read_write"):
            raise ContractError(f"binding {b.name}: access {b.access!r}, expected read, write or read_write")
        other = next((o for o in c.bindings if o.name == b.same_as), None)
        if b.same_as and (other is None or other.same_as or other.optional or b.writes or b.type != other.type):
            raise ContractError(f"binding {b.name}: same_as is {b.same_as!r}, expected a buffer of its type, to read")
        for shader in b.glsl_in:
            if shader not in {v.shader for v in c.variants}:
                raise ContractError(f"binding {b.name}: glsl_in names {shader!r}, which is the shader of no variant")
            if is_texel(b.glsl_in[shader]) and (len(b.glsl_in[shader]) > 1 or b.access != "read"):
                raise ContractError(f"binding {b.name}: a {TEXELS} is read only, and the only view in {shader}")
        for e in b.shape:
            _check_names(f"binding {b.name} shape", e, _known(c))
        if b.elements is not None:
            _check_names(f"binding {b.name} elements", b.elements, _known(c))
        elif not b.shape:
            raise ContractError(f"binding {b.name}: without a shape, `elements` says how many it must have at least")
    for v in c.variants:
        for name in v.types:
            if name not in {b.name for b in c.bindings}:
                raise ContractError(f"variant {v.name}: types names {name!r}, which is no binding")
        if v.prefer not in (None, "cpu", "gpu"):
            raise ContractError(f"variant {v.name}: prefer is {v.prefer!r}, expected cpu or gpu")
        if v.subgroup is not None and v.subgroup not in {s.name for s in c.spec}:
            raise ContractError(f"variant {v.name}: subgroup is {v.subgroup!r}, which is no constant of the contract")
        if v.rewrite not in (None, "coopmat_khr"):
            raise ContractError(f"variant {v.name}: rewrite is {v.rewrite!r}, expected coopmat_khr")


def _check_constants(c: Contract) -> None:
    for p in c.push:
        if p.type not in PUSH_TYPES:
            raise ContractError(f"push {p.name}: type {p.type!r}, expected one of {', '.join(PUSH_TYPES)}")
        if p.value is not None:
            _check_names(f"push {p.name}", p.value, _known(c))
    if c.push_bytes > MAX_PUSH_BYTES:
        raise ContractError(f"push constants take {c.push_bytes} bytes, expected at most {MAX_PUSH_BYTES}")
    for s in c.spec:
        if s.type not in ("uint", "int"):
            raise ContractError(f"constant {s.name}: type {s.type!r}, expected uint or int")
        if s.choices and s.default not in s.choices:
            raise ContractError(f"constant {s.name}: default {s.default} is not among its choices {list(s.choices)}")


def _check_names(what: str, expression: str, known: set[str]) -> None:
    missing = expressions.names(expression) - known
    if missing:
        raise ContractError(f"{what}: {expression!r} uses {sorted(missing)[0]!r}, which nothing defines")


_EXTENSIONS = (
    "GL_EXT_control_flow_attributes", "GL_KHR_shader_subgroup_basic", "GL_KHR_shader_subgroup_arithmetic",
    "GL_KHR_shader_subgroup_shuffle", "GL_KHR_shader_subgroup_ballot", "GL_KHR_shader_subgroup_vote",
    "GL_EXT_shader_16bit_storage", "GL_EXT_shader_8bit_storage", "GL_EXT_shader_explicit_arithmetic_types",
)  # fmt: skip


def views_in(b: Binding, shader: str) -> dict[str, str]:
    """GLSL arrays of a binding in one shader: name -> element type. A texel buffer is the only one of its binding."""
    own = b.glsl_in.get(shader, {})
    return own if is_texel(own) else {**b.glsl, **own}


def is_texel(views: dict[str, str]) -> bool:
    """Whether these are the views of a binding that is read as a texel buffer (four 32-bit words a texel)."""
    return TEXELS in views.values()


def glsl_interface(c: Contract, shader: str) -> str:
    """The generated head that a shader includes: extensions, buffers, push block `p`, constants, local size."""
    lines = [f"// Generated from kernels/{c.name}.toml"]
    lines += [f"#extension {e} : enable" for e in _EXTENSIONS]
    ids = {s.name: i for i, s in enumerate(c.spec)}
    lines += [f"layout(constant_id = {ids[s.name]}) const {s.type} {s.name} = {s.default};" for s in c.spec]
    sizes = []
    for axis, expression in zip("xyz", c.workgroup, strict=True):
        if expression in ids:
            sizes.append(f"local_size_{axis}_id = {ids[expression]}")
        else:
            sizes.append(f"local_size_{axis} = {int(expressions.evaluate(expression, {}))}")
    lines.append(f"layout({', '.join(sizes)}) in;")
    qualifier = {"read": "readonly ", "write": "writeonly ", "read_write": ""}
    for i, b in enumerate(c.bindings):
        views = views_in(b, shader)
        if is_texel(views):
            lines.append(f"layout(set = 0, binding = {i}) uniform {TEXELS} {next(iter(views))};")
            continue
        how = ("coherent " if b.coherent else "") + qualifier[b.access]
        for view, kind in views.items():
            lines.append(f"layout(set = 0, binding = {i}, std430) {how}buffer B_{view} {{ {kind} {view}[]; }};")
    if c.push:
        fields = " ".join(f"{p.type} {p.name};" for p in c.push)
        lines.append(f"layout(push_constant, std430) uniform Push {{ {fields} }} p;")
    return "\n".join(lines) + "\n"
