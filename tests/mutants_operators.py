"""Small faults that a test must notice: each a change of one place of a module's source.

Module-level constants and decorated functions are changed too: patterns, limits and cached readers are what the
security of the protocol rests on. What is left as it is: annotations, decorators, docstrings, and the words of errors.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, Final, NamedTuple

OTHER_COMPARISON: Final[dict[type[ast.cmpop], ast.cmpop]] = {
    ast.Lt: ast.LtE(),
    ast.LtE: ast.Lt(),
    ast.Gt: ast.GtE(),
    ast.GtE: ast.Gt(),
    ast.Eq: ast.NotEq(),
    ast.NotEq: ast.Eq(),
    ast.In: ast.NotIn(),
    ast.NotIn: ast.In(),
    ast.Is: ast.IsNot(),
    ast.IsNot: ast.Is(),
}
OTHER_OPERATOR: Final[dict[type[ast.operator], ast.operator]] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.FloorDiv(),
    ast.FloorDiv: ast.Mult(),
    ast.Mod: ast.FloorDiv(),
    ast.Pow: ast.Mult(),
    ast.LShift: ast.RShift(),
    ast.RShift: ast.LShift(),
    ast.BitAnd: ast.BitOr(),
    ast.BitOr: ast.BitAnd(),
    ast.BitXor: ast.BitAnd(),
}
_NOTHING: Final = ast.Constant(None)
_BARE: Final = (ast.Name, ast.Attribute, ast.Call, ast.Await, ast.NamedExpr)
"""Conditions in which no other operator finds anything to turn round."""


class Mutant(NamedTuple):
    """One change."""

    path: Path
    where: str
    """The class and function, or `module`."""
    lines: range
    """Of the statement: a test that runs none of them cannot tell."""
    old: str
    new: str
    source: str = ""
    """Of the whole module, changed."""
    number: int = 1
    """Which of the equal changes in this function."""

    @property
    def id(self) -> str:
        """Name the change without a line number, which every edit above it would move."""
        number = f" #{self.number}" if self.number > 1 else ""
        return f"{self.path.name}: {self.where}: {self.old} -> {self.new}{number}"


def mutants_of(path: Path) -> list[Mutant]:
    """Make every mutant of a module."""
    source = path.read_text(encoding="utf-8")
    seen: Counter[str] = Counter()
    result = []
    for change in _changes(ast.parse(source), _Place("module", range(0), in_raise=False)):
        node, place, other = change
        old = ast.get_source_segment(source, node) or ""
        new = "pass" if isinstance(other, ast.Pass) else ast.unparse(other)
        changed = _replaced(source, node, f"({new})" if isinstance(other, ast.expr) else new)
        mutant = Mutant(path, place.where, place.lines, " ".join(old.split()), " ".join(new.split()), changed)
        seen[mutant.id] += 1
        result.append(mutant._replace(number=seen[mutant.id]))
    return result


_Node = ast.expr | ast.stmt


def _replaced(source: str, node: _Node, text: str) -> str:
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    whole = source.encode()
    return (whole[:start] + text.encode() + whole[end:]).decode()


class _Place(NamedTuple):
    where: str
    lines: range
    in_raise: bool


def _changes(node: ast.AST, place: _Place) -> Iterator[tuple[_Node, _Place, ast.AST]]:
    place = _inside(node, place)
    if isinstance(node, ast.expr | ast.stmt):
        for other in _others(node, in_raise=place.in_raise):
            yield node, place, other
    if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(node.test, _BARE):
        yield node.test, place, ast.UnaryOp(ast.Not(), node.test)
    if not (place.in_raise and isinstance(node, ast.JoinedStr)):
        for child in _children(node):
            yield from _changes(child, place)


def _inside(node: ast.AST, place: _Place) -> _Place:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        place = place._replace(where=node.name if place.where == "module" else f"{place.where}.{node.name}")
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        end = max(node.lineno + 1, body[0].lineno) if body else (node.end_lineno or node.lineno) + 1
        place = place._replace(lines=range(node.lineno, end), in_raise=isinstance(node, ast.Raise))
    return place


def _children(node: ast.AST) -> Iterator[ast.AST]:
    left_alone: list[object] = [getattr(node, name, None) for name in ("annotation", "returns", "bases")]
    left_alone += getattr(node, "decorator_list", [])
    for child in ast.iter_child_nodes(node):
        is_text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        is_format = isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)
        if child not in left_alone and not is_text and not is_format:
            yield child


def _others(node: _Node, *, in_raise: bool) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt):
        yield from _other_statements(node)
    elif isinstance(node, ast.Constant):
        if not (in_raise and isinstance(node.value, str)):
            yield from _other_constants(node.value)
    elif isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp | ast.UnaryOp):
        yield from _other_operators(node)
    elif isinstance(node, ast.Call) and not in_raise:
        for index in range(len(node.keywords)):
            yield _with(node, keywords=_without(node.keywords, index))
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        yield from _other_filters(node)


def _other_operators(node: ast.Compare | ast.BoolOp | ast.BinOp | ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            yield _with(node, ops=[*node.ops[:index], OTHER_COMPARISON[type(operator)], *node.ops[index + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for index in range(len(node.values)):
            rest = _without(node.values, index)
            yield rest[0] if len(rest) == 1 else _with(node, values=rest)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif type(node.op) in OTHER_OPERATOR:
        yield _with(node, op=OTHER_OPERATOR[type(node.op)])


def _without(values: list[Any], index: int) -> list[Any]:
    return [*values[:index], *values[index + 1 :]]


def _other_statements(node: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(node, ast.Return) and node.value is not None and not _is_nothing(node.value):
        yield ast.Return(_NOTHING)
    elif isinstance(node, ast.Raise | ast.Expr | ast.AugAssign):
        yield ast.Pass()
    elif isinstance(node, ast.Break | ast.Continue):
        yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def _other_filters(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> Iterator[ast.AST]:
    for index, loop in enumerate(node.generators):
        if loop.ifs:
            bare = _with(loop, ifs=[])
            yield _with(node, generators=[*node.generators[:index], bare, *node.generators[index + 1 :]])


def _is_nothing(node: ast.expr) -> bool:
    """Tell whether it is None, or as good as None to whoever asks whether it is true."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def _other_constants(value: object) -> Iterator[ast.AST]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
        yield ast.Constant(value - 1)
    elif isinstance(value, str):
        yield ast.Constant(value + "X" if value else "X")
    elif isinstance(value, bytes):
        yield ast.Constant(value + b"X")


def _with(node: ast.AST, **changes: object) -> ast.AST:
    other = copy(node)
    for name, value in changes.items():
        setattr(other, name, value)
    return other
