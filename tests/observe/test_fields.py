"""Claims about the fields of log lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import millhand
from log_fields import FIELDS
from millhand.core.job import JobState

PACKAGE = Path(millhand.__file__).parent
LOG_MESSAGES = Path(__file__).parents[2] / "docs/reference/log_messages.md"
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Call:
    """A logging call, and the functions around it, the innermost last."""

    module: str
    node: ast.Call
    around: tuple[Function, ...]

    @property
    def place(self) -> str:
        return f"{self.module}:{self.node.lineno}"


def test_fields_are_listed() -> None:
    """Every key of an `extra` in the package is in FIELDS, and every field is used."""
    unlisted = [
        f"{call.place} {key!r}" for call in _log_calls() for key in _extra_keys(call) if key not in FIELDS
    ]
    source = "".join(_texts().values())
    unused = [field for field in FIELDS if f'"{field}"' not in source and f"{field}=" not in source]

    assert (unlisted, unused) == ([], [])


def test_log_lines_are_constant_phrases() -> None:
    """Every log message is a constant phrase, without f-strings or interpolation."""
    built = []
    for call in _log_calls():
        is_log = isinstance(call.node.func, ast.Attribute) and call.node.func.attr == "log"
        phrases = call.node.args[1:] if is_log else call.node.args
        if not (len(phrases) == 1 and _is_constant(phrases[0], call)):
            built.append(f"{call.place} {ast.unparse(call.node)}")

    assert built == []


def test_page_of_messages_names_only_fields_of_the_message() -> None:
    """A field in the meaning of a message is a field of its log calls, or of another message of the same row."""
    keys: dict[str, set[str]] = {}
    for call in _log_calls():
        for phrase in (node.value for node in ast.walk(call.node) if isinstance(node, ast.Constant)):
            keys.setdefault(str(phrase), set()).update(_extra_keys(call))
    wrong = []
    for line in LOG_MESSAGES.read_text(encoding="utf-8").splitlines():
        messages, *_, meaning = line.strip("| ").split(" | ") if line.startswith("| `") else ("", "")
        known = set().union(*(keys.get(message, set()) for message in re.findall("`([^`]+)`", messages)))
        named = set(re.findall("`([^`]+)`", meaning)) & FIELDS.keys() - set(JobState)
        wrong += [(messages, name) for name in sorted(named - known)] if known else []

    assert wrong == []


def _is_constant(phrase: ast.expr, call: Call) -> bool:
    """Return whether a phrase is constant, also as a parameter of a function."""
    match phrase:
        case ast.Constant(value=str()):
            return True
        case ast.IfExp(body=body, orelse=orelse):
            return _is_constant(body, call) and _is_constant(orelse, call)
        case ast.Name(id=name):
            return name in {argument.arg for function in call.around for argument in function.args.args}
        case _:
            return False


def _extra_keys(call: Call) -> Iterator[str]:
    for keyword in call.node.keywords:
        if keyword.arg == "extra":
            yield from _keys(keyword.value, call)


def _keys(node: ast.expr, call: Call) -> Iterator[str]:
    """Yield the keys of a dict expression; an unknown expression yields its source."""
    match node:
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if key is None:
                    yield from _keys(value, call)
                else:
                    yield str(ast.literal_eval(key))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right) | ast.IfExp(body=left, orelse=right):
            yield from _keys(left, call)
            yield from _keys(right, call)
        case (
            ast.Call(func=ast.Name(id=name))
            | ast.Call(func=ast.Attribute(attr=name))
            | ast.Attribute(attr=name)  # a property
        ):
            yield from _keys_returned(name, call)
        case ast.Name(id=name):
            yield from _keys_assigned(name, call)
        case ast.DictComp(generators=[ast.comprehension(iter=ast.Name(id=name))]):
            yield from _constant(name, call.module)
        case _:
            yield f"cannot see the keys of {ast.unparse(node)}"


def _constant(name: str, module: str) -> tuple[str, ...]:
    """Return the tuple of texts that a module assigns to a name."""
    for statement in _trees()[module].body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                return tuple(ast.literal_eval(value))
    return (f"cannot see the keys of {name}",)


def _keys_returned(name: str, call: Call) -> Iterator[str]:
    """Yield the keys that functions of this name return, in the call's module or in any other."""
    functions = _functions().get(name, [])
    functions = [each for each in functions if each[0] == call.module] or functions
    if not functions:
        yield f"cannot see the keys of {name}()"
    for module, function in functions:
        for statement in ast.walk(function):
            if isinstance(statement, ast.Return) and statement.value is not None:
                yield from _keys(statement.value, Call(module, call.node, (function,)))


def _keys_assigned(name: str, call: Call) -> Iterator[str]:
    """Yield the keys that a name may hold: of its assignments, or of the callers' keywords for `**name`."""
    found = False
    for function in call.around:
        if function.args.kwarg is not None and function.args.kwarg.arg == name:
            found = True
            yield from _keywords_given_to(function, call.module)
        for statement in ast.walk(function):
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=target)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value)
                    | ast.AugAssign(target=ast.Name(id=target), value=value)
                ) if target == name:
                    found = True
                    yield from _keys(value, call)
    if not found:
        yield f"cannot see the keys of {name}"


def _keywords_given_to(function: Function, module: str) -> Iterator[str]:
    own = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    for node in ast.walk(_trees()[module]):
        match node:
            case ast.Call(func=ast.Name(id=name), keywords=keywords) if name == function.name:
                yield from (keyword.arg or "**" for keyword in keywords if keyword.arg not in own)


@cache
def _log_calls() -> list[Call]:
    """Return every logging call of the package."""
    return [call for module, tree in _trees().items() for call in _log_calls_in(tree, module, ())]


def _log_calls_in(node: ast.AST, module: str, around: tuple[Function, ...]) -> Iterator[Call]:
    if isinstance(node, Function):
        around = (*around, node)
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=method)) if method in LOG_METHODS:
            yield Call(module, node, around)
    for child in ast.iter_child_nodes(node):
        yield from _log_calls_in(child, module, around)


@cache
def _functions() -> dict[str, list[tuple[str, Function]]]:
    """Return the functions of the modules that log, by name, each with its module."""
    functions: dict[str, list[tuple[str, Function]]] = {}
    for module, tree in _trees().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                functions.setdefault(node.name, []).append((module, node))
    return functions


@cache
def _trees() -> dict[str, ast.Module]:
    """Return the syntax trees of the modules that write log lines or build their fields."""
    return {name: ast.parse(text) for name, text in _texts().items() if "logger" in text or "fields(" in text}


@cache
def _texts() -> dict[str, str]:
    return {
        str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }
