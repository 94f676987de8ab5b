"""TOML tables as frozen dataclasses: types are checked, an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from trackctl.runtime.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: there is no such file, or it is no TOML.
    """
    try:
        with path.open("rb") as file:
            tables: dict[str, Any] = tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML file: {error}") from error
    return tables


def from_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """The dataclass ``kind`` with the values of a table; tables within it become the dataclasses of their fields.

    Args:
        kind: a dataclass whose fields are numbers, strings, booleans, literals, tuples, mappings from strings, dataclasses, or
            one of these or None.
        table: as TOML gives it.
        where: names the table in messages, such as ``my.toml [training]``.

    Raises:
        InputError: a key is unknown or missing, or a value is of another type.
    """
    known = {field.name: field for field in fields(cast(Any, kind))}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InputError(f"{where}: there is no {key!r}, do you mean {near!r}? Known: {', '.join(known)}")
    required = [name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if missing := [name for name in required if name not in table]:
        raise InputError(f"{where}: got no {', '.join(missing)}, expected a value: add it")
    hints = get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, f"{where} {key}") for key, value in table.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _value(inner, value, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where}: got {value!r}, expected one of {', '.join(map(str, arguments))}")
        return value
    if is_dataclass(kind):
        return from_table(cast(Any, kind), _is(dict, value, where), where)
    if origin is tuple:
        values = _is(list, value, where)
        kinds = [arguments[0]] * len(values) if arguments[-1] is ... else list(arguments)
        if len(kinds) != len(values):
            raise InputError(f"{where}: got {len(values)} values, expected {len(kinds)}")
        return tuple(
            _value(part, item, f"{where}[{index}]") for index, (part, item) in enumerate(zip(kinds, values, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in _is(dict, value, where).items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _is(kind, value, where)


def _is(kind: type[T], value: Any, where: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: got {value!r}, expected a value of type {kind.__name__}")
    return value
