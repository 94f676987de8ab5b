"""The options of a source, written as in a web address: ``frames=200&size=640x512``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from urllib.parse import parse_qsl

from trackctl.runtime.errors import SourceError


def read_options(query: str, known: Sequence[str], source: str) -> dict[str, str]:
    """The values by name, in their order.

    Args:
        query: ``NAME=VALUE&...`` or nothing.
        known: the names that there are.
        source: what errors call the source.

    Raises:
        SourceError: an option is unknown or given twice.
    """
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise SourceError(f"{source}: there is no option {name!r}, do you mean {near}? Known: {', '.join(known)}")
        if name in options:
            raise SourceError(f"{source}: got the option {name} twice, expected it once")
        options[name] = value
    return options


def rendered_options(text: str, known: Sequence[str], source: str, example: str) -> dict[str, str]:
    """The options of a source that has no path, after its question mark.

    Args:
        text: what follows the source's name: ``?NAME=VALUE&...`` or nothing.
        known: the names that there are.
        source: the source's name, such as ``synth:hsi``.
        example: options that errors show, such as ``?bands=16``.

    Raises:
        SourceError: the question mark is missing, or as for :func:`read_options`.
    """
    if text and not text.startswith("?"):
        raise SourceError(f"got {source}{text}, expected the options after a question mark: {source}{example}")
    return read_options(text[1:], known, source.rstrip(":"))


def matched(source: str, name: str, value: str, form: str, example: str) -> re.Match[str]:
    """The value's match of a form, a regular expression.

    Raises:
        SourceError: it has another form; with the example.
    """
    match = re.fullmatch(form, value, flags=re.ASCII)
    if match is None:
        raise SourceError(f"{source.rstrip(':')}: got {name}={value}, expected a value such as {name}={example}")
    return match
