"""Load the configuration that `MODULE:CONFIG` names from the user's code."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import click

from millhand.core.config import Config
from millhand.core.near_match import near_match
from millhand.core.orphans import ReferenceSource
from millhand.shells.cli.error_text import explained
from millhand.shells.cli.output import WrongUse
from millhand.shells.settings.decode import guess


def load_config(target: str, directory: Path) -> Config:
    """Return the `Config`, or the result of the function, that `module:name` names. Raises: WrongUse."""
    module_name, name = _parts(target, "MODULE:CONFIG", "shop.jobs:config")
    module = _imported(module_name, directory)
    value = _attribute(module, name, near=_configs(module))
    if callable(value) and not isinstance(value, type):
        value = _called(value, target, "a millhand.Config")
    if not isinstance(value, Config):
        raise WrongUse(
            f"{target} must be a millhand.Config or a function that returns one, got {type(value).__name__}"
            + (f"; did you mean {min(_configs(module))!r}?" if _configs(module) else "")
        )
    return value


def load_sources(target: str, directory: Path) -> tuple[ReferenceSource, ...]:
    """Import `module:name` as `load_config` does, and return its sources. Raises: WrongUse."""
    module_name, name = _parts(target, "MODULE:NAME", "shop.orphans:sources")
    value = _attribute(_imported(module_name, directory), name)
    if callable(value):
        value = _called(value, target, "sources")
    sources = tuple(value) if isinstance(value, list | tuple) else ()
    if not sources or not all(isinstance(one, ReferenceSource) for one in sources):
        raise WrongUse(
            f"{target} must be ReferenceSources or a function that returns some, got {type(value).__name__}"
        )
    return sources


def _parts(target: str, subject: str, example: str) -> tuple[str, str]:
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise WrongUse(
            f"{subject} must be a module and a name in it, got {target!r}; write it like {example!r}"
        )
    if not _is_importable(module) or module.endswith(".py"):
        near = module.removeprefix("./").removesuffix(".py").replace("/", ".")
        remedy = f"write {f'{near}:{name}'!r}" if _is_importable(near) else f"write it like {example!r}"
        raise WrongUse(f"{subject} must name a module as an import does, got {target!r}; {remedy}")
    return module, name


def _is_importable(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _imported(name: str, directory: Path) -> ModuleType:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            near = _near_module(name, error.name, directory)
            remedy = "run this command in the directory of the module, or install it"
            raise WrongUse(
                f"module {name!r} must be importable, found no {error.name!r} in {str(directory)!r} or the installed "
                f"packages; {f'did you mean {near!r}?' if near else remedy}"
            ) from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _near_module(name: str, missing: str, directory: Path) -> str | None:
    """Return the module beside the missing one whose name resembles it, if there is one; it is not imported."""
    import pkgutil  # noqa: PLC0415 - only after a wrong name

    package, _, word = missing.rpartition(".")
    places = getattr(sys.modules[package], "__path__", ()) if package else [str(directory)]
    near = near_match(word, {module.name for module in pkgutil.iter_modules(places)})
    rest = name.split(".")[len(missing.split(".")) :]
    if near is None or not any(_has_module(Path(place, near), rest) for place in places):
        return None
    return ".".join([*([package] if package else []), near, *rest])


def _has_module(path: Path, rest: Sequence[str]) -> bool:
    module = path.joinpath(*rest)
    return module.is_dir() or module.with_suffix(".py").is_file() or not rest


def _attribute(module: ModuleType, name: str, near: Sequence[str] = ()) -> object:
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            hint = guess(part, near) if near else ""
            raise WrongUse(f"module {module.__name__!r} must have a {name!r}, got none{hint}")
        value = getattr(value, part)
    return value


def _called(function: object, target: str, what: str) -> object:
    try:
        return function()  # type: ignore[operator]  # the caller checked that it is callable
    except Exception as error:
        _print_traceback(error)
        raise WrongUse(f"{target} must return {what}, got {type(error).__name__}: {error}") from error


def _broken(name: str, error: Exception) -> WrongUse:
    _print_traceback(error)
    return WrongUse(f"module {name!r} must be importable, got {type(error).__name__}: {error}")


def _print_traceback(error: Exception) -> None:
    """Print the traceback of an error in the user's code, without secrets and the frames of the import."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        filename = trace.tb_frame.f_code.co_filename
        if filename != __file__ and "importlib" not in filename:
            break
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    click.echo(explained(text), err=True, nl=False)


def _configs(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Config)]
