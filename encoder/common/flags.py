"""Command-line options from a dataclass: its fields give the flags, defaults and help texts.

A field's docstring is its help text. `Annotated[..., Flag(...)]` adds the rest.
"""

import argparse
import ast
import inspect
import sys
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Appearance of a field on the command line."""

    metavar: str | None = None
    """Placeholder of the value in the help text."""
    default: str | None = None
    """Text of a default that depends on other settings or on the video."""
    group: str | None = None
    """Heading of the option in the help text."""
    exclusive: str | None = None
    """Name of a set of mutually exclusive options."""


class Options(Protocol):
    """Receiver of options: a parser, or one of its groups."""

    def add_argument(self, *names: str, **how: Any) -> object:
        """Add an option."""
        ...


def add_flags(
    command: argparse.ArgumentParser,
    config: type,
    names: Collection[str] | None = None,
    *,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Add the fields of a dataclass as options: those named, or all.

    `defaults` holds texts for defaults that the command decides on, by field.
    """
    hints = get_type_hints(config, include_extras=True)
    docs = field_docs(config)
    groups: dict[str | None, argparse.ArgumentParser | argparse._ArgumentGroup] = {None: command}  # pyright: ignore[reportPrivateUsage]
    exclusive: dict[str, Options] = {}
    for each in fields(config):
        if names is not None and each.name not in names:
            continue
        kind, flag = _unpacked(hints[each.name])
        if flag.group not in groups:
            groups[flag.group] = command.add_argument_group(flag.group)
        receiver: Options = groups[flag.group]
        if flag.exclusive is not None:
            if flag.exclusive not in exclusive:
                exclusive[flag.exclusive] = groups[flag.group].add_mutually_exclusive_group()
            receiver = exclusive[flag.exclusive]
        told = (defaults or {}).get(each.name, flag.default)
        if told is None and not any(each.default is no for no in (None, False, True, MISSING)):
            told = f"{each.default:g}" if isinstance(each.default, float) else str(each.default)
        suffix = f" (default: {told})" if told is not None else ""
        receiver.add_argument(
            flag_name(each.name),
            dest=each.name,
            default=None if each.default is MISSING else each.default,
            help=f"{docs[each.name]}{suffix}".replace("%", "%%"),
            **_conversion(each.name, kind, flag),
        )


def from_flags(config: type[Config], args: argparse.Namespace, **more: Any) -> Config:
    """Return a dataclass filled from parsed options; raises the dataclass's own errors."""
    given = vars(args)
    known = {each.name: given[each.name] for each in fields(config) if each.name in given}  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return config(**(known | more))


def flag_name(field: str) -> str:
    """Return the option of a field."""
    return f"--{field.rstrip('_').replace('_', '-')}"


@cache
def field_docs(config: type) -> Mapping[str, str]:
    """Return the docstrings of a dataclass's fields by name, as one line each without full stop."""
    docs: dict[str, str] = {}
    for base in reversed(config.__mro__[:-1]):
        tree = _classes(base.__module__)[base.__name__]
        for field, following in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(following, ast.Expr):
                text = ast.literal_eval(following.value)
                line = " ".join(text.split()).removesuffix(".")
                assert isinstance(field.target, ast.Name)
                docs[field.target.id] = line[:1].lower() + line[1:] if line[1:2].islower() else line
    return docs


@cache
def _classes(module: str) -> Mapping[str, ast.ClassDef]:
    """Return the parsed classes of a module: much faster than to find the source of each."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}


def _unpacked(hint: Any) -> tuple[Any, Flag]:
    """Return a field's type without None, and its flag."""
    flag = Flag()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        flag = next((each for each in extras if isinstance(each, Flag)), flag)
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else str
    return hint, flag


def _conversion(name: str, kind: Any, flag: Flag) -> dict[str, Any]:
    """Return argparse's settings for the values of a field."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    return {"type": kind, "metavar": flag.metavar or name.rstrip("_").upper()}
