"""Creates mutants: copies of a source file with one expression or statement changed."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    last_line: int
    before: str
    after: str
    start: int
    """Byte offset in the file."""
    end: int
    source_line: str
    """The first line of the statement, without its indentation."""
    number: int = 0
    """Counts mutants with the same source line and change in one file."""

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]


COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.MatMult: ast.Add,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "maximum": "minimum", "minimum": "maximum"}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield changed copies of an expression or statement."""
    match node:
        case ast.Compare(ops=operators):
            for i, operator in enumerate(operators):
                for other in COMPARISONS[type(operator)]:
                    yield changed(node, ops=[*operators[:i], other(), *operators[i + 1 :]])
        case ast.BinOp(op=operator) if type(operator) in OPERATORS and not (
            _is_text(node.left) or _is_text(node.right)
        ):
            yield changed(node, op=OPERATORS[type(operator)]())
        case ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            yield changed(node, op=OPERATORS[type(operator)]())
            yield ast.Pass()
        case ast.BoolOp(op=operator):
            yield changed(node, op=ast.And() if isinstance(operator, ast.Or) else ast.Or())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value) if value and not any(map(str.isspace, value)):
            yield ast.Constant(f"{value}X")  # texts with spaces are messages
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield changed(node, func=ast.Name(NAMES[name], ast.Load()))
        case ast.Call(func=ast.Attribute(attr=name) as function) if name in NAMES:
            yield changed(node, func=changed(function, attr=NAMES[name]))
        case ast.IfExp():
            yield changed(node, body=node.orelse, orelse=node.body)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def changed(node: ast.AST, **fields: Any) -> Any:
    result = copy.copy(node)
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of its lines."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    result: list[Mutant] = []
    seen: dict[tuple[str, str, str], int] = {}

    def add(node: Any, after: ast.AST, statement: Any) -> None:
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before, text = source[start:end].decode(), ast.unparse(after)
        if isinstance(node, ast.expr):
            text = f"({text})" if not isinstance(after, ast.Constant) else text
        line = lines[statement.lineno - 1].decode().strip()
        number = seen[line, before, text] = seen.get((line, before, text), -1) + 1
        first = min(statement.lineno, node.lineno)  # decorators are above their class
        last = statement.end_lineno if not getattr(statement, "body", None) else node.end_lineno
        result.append(Mutant(file, first, last, before, text, start, end, line, number))

    def walk(node: ast.AST, statement: ast.AST, has_fields: bool) -> None:
        for child in children(node, has_fields):
            inner = child if isinstance(child, ast.stmt) else statement
            if not _is_docstring(child):
                for after in variants(child):
                    add(child, after, inner)
                if isinstance(child, ast.If | ast.While) and not isinstance(child.test, ast.Compare | ast.UnaryOp):
                    add(child.test, ast.UnaryOp(ast.Not(), child.test), child)
                for condition in getattr(child, "ifs", []):
                    add(condition, ast.Constant(True), inner)
                walk(child, inner, has_fields=_has_evaluated_annotations(child, node))

    tree = ast.parse(source)
    walk(tree, tree, has_fields=False)
    return sorted(result, key=lambda m: (m.start, m.end, m.after))


def children(node: ast.AST, has_fields: bool) -> Iterator[ast.AST]:
    """Yield the child nodes that are executed: no type-checking blocks, ``__all__``, or annotations but of fields."""
    skipped = {"returns"} if has_fields else {"returns", "annotation"}
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or name in skipped:
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            yield child


def _has_evaluated_annotations(node: ast.AST, parent: ast.AST) -> bool:
    """Whether a node is an annotated field that pydantic evaluates. Those of dataclasses and functions stay text."""
    if not isinstance(node, ast.AnnAssign) or not isinstance(parent, ast.ClassDef):
        return False
    return not any("dataclass" in ast.unparse(decorator) for decorator in parent.decorator_list)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def one_line(before: str, after: str) -> str:
    return " ".join(f"{before} -> {after}".split())
