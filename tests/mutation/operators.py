"""Small faults that can be put into a module's source, one at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
}
SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception"})
"""A missing log line is no fault of behaviour, and its text no contract."""


@dataclass(frozen=True)
class Mutant:
    """One fault: the characters from ``start`` to ``end`` of the source become ``replacement``."""

    start: int
    end: int
    replacement: str
    line: int
    original: str
    operator: str

    def apply(self, source: str) -> str:
        """Return the source with the fault in it."""
        return source[: self.start] + self.replacement + source[self.end :]

    @property
    def description(self) -> str:
        """What was replaced by what, on one line."""
        before, after = (" ".join(text.split())[:100] for text in (self.original, self.replacement))
        return f"{self.operator}: {before}  →  {after}"


def mutants_of(source: str) -> list[Mutant]:
    """Return every mutant of a module's source, in the order of their places."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda mutant: (mutant.start, mutant.end, mutant.replacement))


class _Finder(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.found: list[Mutant] = []
        self._source = source
        # Positions of the syntax tree are a line and the number of UTF-8 bytes in it.
        self._lines = source.splitlines(keepends=True)
        self._offsets = [0]
        for line in self._lines:
            self._offsets.append(self._offsets[-1] + len(line))

    # Places without behaviour of their own.

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            return
        for statement in node.body:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "__repr__":
            return
        # Neither annotations nor decorators.
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self._default(default)
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets):
            return
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._remove(node)
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._remove(node)
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._remove(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._remove(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Assertions state what holds anyway."""

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Constant):
            return
        call = value.value if isinstance(value, ast.Await) else value
        if isinstance(call, ast.Call):
            if isinstance(call.func, ast.Attribute) and call.func.attr in LOG_METHODS:
                return
            self._remove(node)
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts for people."""

    # Expressions.

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None and len(self._lines[node.lineno - 1].strip()) == len("return"):
            self._replace(node, "pass", "remove return")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break", "continue to break")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue", "break to continue")

    def visit_Compare(self, node: ast.Compare) -> None:
        for index, operator in enumerate(node.ops):
            other = COMPARISONS.get(type(operator))
            if other is not None:
                changed = copy.deepcopy(node)
                changed.ops[index] = other()
                self._replace(node, ast.unparse(changed), "comparison")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._replace(node, f"({ast.unparse(changed)})", "and/or")
        for index in range(len(node.values)):
            rest = [value for at, value in enumerate(node.values) if at != index]
            text = f" {'and' if isinstance(node.op, ast.And) else 'or'} ".join(
                f"({ast.unparse(value)})" for value in rest
            )
            self._replace(node, f"({text})", "drop condition")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace(node, f"bool({ast.unparse(node.operand)})", "negation")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        other = ARITHMETIC.get(type(node.op))
        if other is not None and (_is_number(node.left) or _is_number(node.right)):
            changed = copy.deepcopy(node)
            changed.op = other()
            self._replace(node, f"({ast.unparse(changed)})", "arithmetic")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOG_METHODS:
            return
        if isinstance(node.func, ast.Name) and node.func.id in SWAPPED_CALLS:
            self._replace(node.func, SWAPPED_CALLS[node.func.id], "other function")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, repr(not value), "constant")
        elif isinstance(value, int | float):
            self._replace(node, repr(value + 1), "constant")
            self._replace(node, repr(value - 1) if value >= 1 else f"({value - 1!r})", "constant")

    # Parts.

    def _default(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant) and node.value == "":
            self._replace(node, "'x'", "default")

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            self._replace(test, f"(not ({ast.unparse(test)}))", "negation")

    def _remove(self, node: ast.stmt) -> None:
        self._replace(node, "pass", "remove statement")

    def _replace(self, node: ast.AST, replacement: str, operator: str) -> None:
        start = self._position(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        end = self._position(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        original = self._source[start:end]
        if isinstance(node, ast.expr):
            # `not` and the like bind less tightly than what may stand around the original.
            replacement = replacement if replacement.startswith("(") else _enclose(replacement)
        self.found.append(Mutant(start, end, replacement, node.lineno, original, operator))  # type: ignore[attr-defined]

    def _position(self, line: int, byte: int) -> int:
        text = self._lines[line - 1]
        return self._offsets[line - 1] + len(text.encode()[:byte].decode())


def _is_number(node: ast.expr) -> bool:
    """Whether this is a number for sure: bytes cannot be subtracted, and a crash says little about the tests."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name == "now" or name.endswith(
        ("_s", "_at", "_bytes", "_BYTES", "_S", "_MAX", "count", "size", "offset")
    )


def _enclose(text: str) -> str:
    return text if text.isidentifier() or text[:1].isdigit() or text[:1] in "'\"" else f"({text})"


def each(sources: dict[str, str]) -> Iterator[tuple[str, Mutant]]:
    """Yield every mutant of several modules, by path."""
    for path, source in sorted(sources.items()):
        for mutant in mutants_of(source):
            yield path, mutant
