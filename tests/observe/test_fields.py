"""Claims about the fields of log lines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import millhand
from millhand.observe.fields import FIELDS

PACKAGE = Path(millhand.__file__).parent
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def test_fields_are_spelled_as_listed() -> None:
    """Every key that the package gives a log line as `extra` is in the list, and can be seen in the source."""
    unlisted = [
        f"{path.relative_to(PACKAGE)}:{line} {key!r}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, key in _extra_keys(path)
        if key not in FIELDS
    ]

    assert unlisted == []


def test_log_lines_are_constant_phrases() -> None:
    """What is logged is a constant phrase: no f-string, no interpolation, so that a line can be searched for."""
    built = [
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for call in _log_calls(ast.parse(path.read_text()))
        if not (len(call.args) == 1 and isinstance(call.args[0], ast.Constant))
        and not isinstance(call.func, ast.Name)
    ]

    assert built == []


def _extra_keys(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and key of every `extra`; what is not a literal is looked up where the module builds it."""
    tree = ast.parse(path.read_text())
    for call in _log_calls(tree):
        for keyword in call.keywords:
            if keyword.arg == "extra":
                yield from _keys(keyword.value, tree, call)


def _keys(node: ast.expr, tree: ast.Module, call: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if key is None:
                    yield from _keys(value, tree, call)
                else:
                    yield key.lineno, str(ast.literal_eval(key))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _keys(left, tree, call)
            yield from _keys(right, tree, call)
        case ast.IfExp(body=body, orelse=orelse):
            yield from _keys(body, tree, call)
            yield from _keys(orelse, tree, call)
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            if name == "dict":
                yield from ((node.lineno, keyword.arg or "**") for keyword in node.keywords)
            else:
                yield from _keys_of_function(name, tree, node)
        case ast.Name(id=name):
            yield from _keys_of_name(name, tree, call)
        case _:
            yield node.lineno, f"cannot see the keys of {ast.unparse(node)}"


def _keys_of_function(name: str, tree: ast.Module, node: ast.expr) -> Iterator[tuple[int, str]]:
    functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name == name]
    if not functions:
        yield node.lineno, f"cannot see the keys of {name}()"
    for function in functions:
        for statement in ast.walk(function):
            if isinstance(statement, ast.Return) and statement.value is not None:
                yield from _keys(statement.value, tree, statement)


def _keys_of_name(name: str, tree: ast.Module, call: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the keys of all dicts that are assigned to `name` in the function around `call`."""
    found = False
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or call not in ast.walk(function):
            continue
        for statement in ast.walk(function):
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=target)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value)
                    | ast.AugAssign(target=ast.Name(id=target), value=value)
                ) if target == name:
                    found = True
                    yield from _keys(value, tree, statement)
    if not found:
        yield getattr(call, "lineno", 0), f"cannot see the keys of {name}"


def _log_calls(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger" | "log"), attr=method)) if (
                method in LOG_METHODS
            ):
                yield node
            case ast.Call(keywords=keywords) if any(keyword.arg == "extra" for keyword in keywords):
                yield node
