"""docs/kernels.md, written from the contracts: `python -m flux_vk.gpu.kernel_page > docs/kernels.md`.

Not for: prose about kernels; what is to be said of one goes into its contract.
"""

from __future__ import annotations

from collections.abc import Iterable

from .contract import Binding, Contract, Variant
from .kernels import contracts

_HEAD = """\
# Kernels

<!-- Written by `python -m flux_vk.gpu.kernel_page > docs/kernels.md` from kernels/*.toml. -->

Every kernel is called on a chain by these names: `chain.rms_norm(x=h, w=weight, y=n, eps=1e-6)`. Symbols are solved
from the shapes of the buffers; one that no shape gives is passed by keyword, as are push fields without a value here.
UPPERCASE keywords set specialization constants. Grid and cost are expressions of symbols, push fields and constants;
`ceil_div(a, b)` rounds up. Tolerance is the normalised mean squared error against the float64 reference of the same
name in `flux_vk/gpu/reference/`; "exact" means equal to the last bit.
"""


def _code(text: object) -> str:
    return f"`{text}`"


def _table(head: str, rows: Iterable[Iterable[str]]) -> list[str]:
    titles = head.split("|")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def _shape(b: Binding) -> str:
    shape = _code(f"[{', '.join(b.shape)}]") if b.shape else ""
    least = f"at least {_code(b.elements)} elements" if b.elements else ""
    return ", ".join(filter(None, (shape, least)))


def _push_value(value: str | None, default: int | float | None) -> str:
    if value is not None:
        return f"= {_code(value)}"
    return "passed by the caller" if default is None else f"passed by the caller, else {default}"


def _prefer(v: Variant) -> str:
    return {"cpu": "CPU devices", "gpu": "GPUs"}.get(v.prefer or "", "")


def _section(c: Contract) -> list[str]:
    lines = [f"## {c.name}", "", c.summary, ""]
    if c.source:
        lines += [f"Source: {c.source}", ""]
    optional = {b.name for b in c.bindings if b.optional}
    lines += _table(
        "buffer|access|type|shape",
        (
            (
                _code(b.name) + (" (optional)" if b.optional else ""),
                b.access.replace("_", " and "),
                "by variant" if b.type == "*" else b.type,
                _shape(b),
            )
            for b in c.bindings
        ),
    )
    fields = [p for p in c.push if p.name.removeprefix("has_") not in optional]
    if fields:
        rows = ((_code(p.name), p.type, _push_value(p.value, p.default)) for p in fields)
        lines += _table("push field|type|value", rows)
    if c.spec:
        lines += _table(
            "constant|type|default|tried",
            ((_code(s.name), s.type, str(s.default), ", ".join(map(str, s.choices)) or "-") for s in c.spec),
        )
    if len(c.variants) > 1 or c.variants[0].types or c.variants[0].requires:
        lines += _table(
            "variant|for|needs|preferred on",
            (
                (
                    _code(v.name),
                    ", ".join(f"{name} {dtype}" for name, dtype in v.types.items()) or "any",
                    ", ".join(v.requires) or "-",
                    _prefer(v) or "-",
                )
                for v in c.variants
            ),
        )
    lines += [
        f"- grid: {' x '.join(_code(e) for e in c.grid)} workgroups of {' x '.join(_code(e) for e in c.workgroup)}",
        f"- cost: {_code(c.cost_bytes)} bytes, {_code(c.cost_flops)} operations"
        + "".join(f"; {_code(name)} may be passed, else {default}" for name, default in c.cost_arguments.items()),
        f"- tolerance: {f'NMSE {c.nmse:g}' if c.nmse else 'exact'}",
    ]
    if c.window:
        lines.append(
            f"- window: a {_code(c.window.binding)} larger than one binding may span is bound in parts by rows; "
            f"{_code(c.window.push)} receives the first row of each"
        )
    return [*lines, ""]


def kernel_page() -> str:
    """The text of docs/kernels.md: a list of all kernels, then a section each."""
    found = [contracts()[name] for name in sorted(contracts())]
    lines = [_HEAD]
    lines += _table("kernel|what it does", ((f"[{c.name}](#{c.name})", c.summary) for c in found))
    for c in found:
        lines += _section(c)
    return "\n".join(lines)


if __name__ == "__main__":
    print(kernel_page(), end="")
