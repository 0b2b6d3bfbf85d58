"""Rewrites a template's syntax tree so that every step that could grow or last is counted (sandbox.py).

Not for: the counting itself.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

MAX_ELIF = 500


class Generation(Extension):
    """{% generation %} ... {% endgeneration %}: marks the assistant's own words for training; here only its
    body.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def instrument(tree: nodes.Template) -> nodes.Template:
    """The same template with counted loops, literals, slices, comparisons, concatenations and output.

    Raises TemplateSyntaxError for statements that chat templates have no use for.
    """
    out = _Counted().visit(tree)
    assert isinstance(out, nodes.Template)
    return out


def _through(name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Counted(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("_each", node.iter)  # type: ignore[arg-type]  # jinja2 types it as Node
        return node

    def visit_If(self, node: nodes.If) -> nodes.Node:
        if len(node.elif_) > MAX_ELIF:
            raise TemplateSyntaxError(f"more than {MAX_ELIF} elif", node.lineno)
        self.generic_visit(node)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        length = sum(len(part.data) for part in node.nodes if isinstance(part, nodes.TemplateData))
        if length:
            node.nodes.append(_through("_data", nodes.Const(length, lineno=node.lineno)))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        first, *rest = node.nodes
        return _through("_concat", first, *rest)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _through("_seen", node.expr)
        for operand in node.ops:
            operand.expr = _through("_seen", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _through("_sliced", node) if isinstance(node.arg, nodes.Slice) else node

    def _literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _through("_made", node)

    visit_List = visit_Dict = visit_Tuple = _literal

    def _not_here(self, node: nodes.Node) -> nodes.Node:
        raise TemplateSyntaxError(f"{type(node).__name__} is not for chat templates", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _not_here
    visit_EvalContextModifier = visit_ScopedEvalContextModifier = visit_OverlayScope = _not_here
