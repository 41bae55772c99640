"""The command line as data: one table of options per tool, from which both parsing and help come.

Owns the manners of DCMTK's command lines that a general parser gets wrong: names of several letters after one ``-`` or
``+``, names that end with ``=``, options in any position, one that takes two words. Knows no option itself.
"""

from __future__ import annotations

import enum
import shutil
import textwrap
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "Effect",
    "Group",
    "Option",
    "Parsed",
    "Tool",
    "UsageError",
    "flag",
    "help_text",
    "nothing_to_do",
    "parse",
    "refused",
    "value",
]


class UsageError(Exception):
    """The command line is not what the tool takes; the text says what is wrong with it."""


class Effect(enum.Enum):
    """What an option does."""

    SET = "sets its field; the last one counts"
    APPEND = "adds to its field, which is a tuple"
    NOTHING = "is understood, and there is nothing to do for it"
    REFUSED = "cannot be honoured, and so ends the tool"
    STOP = "is answered at once, instead of running the tool"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of a table: all the spellings of an option, and what it does."""

    names: tuple[str, ...]
    """Short and long, DCMTK's first."""
    help: str
    """For NOTHING and REFUSED the reason."""
    field: str = ""
    """Of the tool's options dataclass."""
    values: tuple[str, ...] = ()
    """What the words are called that follow it."""
    constant: object = True
    """What an option without words sets."""
    read: Callable[..., object] = str
    """Makes a value of the words; raises ValueError, or UsageError, which has its own words."""
    effect: Effect = Effect.SET


class Group(NamedTuple):
    """Options that stand together in the help."""

    title: str
    options: tuple[Option, ...]


class Tool(NamedTuple):
    """A tool's whole command line."""

    name: str
    summary: str
    usage: tuple[str, ...]
    """Forms of the command line, without the tool's name."""
    options_type: type[Any]
    """A dataclass; its fields' defaults are the options' defaults."""
    groups: tuple[Group, ...]
    notes: str = ""
    """What the help ends with."""

    def table(self) -> dict[str, Option]:
        """Every spelling and its option; no spelling may stand for two."""
        table: dict[str, Option] = {}
        for group in (*self.groups, GENERAL):
            for option in group.options:
                for name in option.names:
                    assert name not in table, f"{self.name}: {name} is there twice"
                    table[name] = option
        return table


class Parsed(NamedTuple):
    """What a command line says."""

    fields: dict[str, Any]
    """For the options dataclass; only what was given."""
    words: list[str]
    """What is no option: host, port, files."""
    stop: str
    """The option that is answered instead of running the tool (``--help``), or nothing."""


# Rows


def flag(names: str, field: str, text: str, constant: object = True, effect: Effect = Effect.SET) -> Option:  # noqa: FBT002 - it is data
    """An option of one word, which sets its field to ``constant``."""
    return Option(tuple(names.split()), text, field, constant=constant, effect=effect)


def value(names: str, field: str, name: str, text: str, read: Callable[..., object] = str) -> Option:
    """An option with a value, which ``read`` makes of the words that follow, one for each word in ``name``."""
    return Option(tuple(names.split()), text, field, tuple(name.split()), read=read)


def nothing_to_do(names: str, reason: str, *values: str) -> Option:
    """An option that scripts give and that is fulfilled anyway, or has no meaning here."""
    return Option(tuple(names.split()), reason, values=values, effect=Effect.NOTHING)


def refused(names: str, reason: str, *values: str) -> Option:
    """An option that scripts give and that this tool does not do: better no run than another one than was asked for."""
    return Option(tuple(names.split()), reason, values=values, effect=Effect.REFUSED)


GENERAL = Group(
    "help",
    (
        flag("-h --help", "help", "print this and exit", effect=Effect.STOP),
        flag("--version", "version", "print the version and exit", effect=Effect.STOP),
    ),
)


# Parsing


def parse(tool: Tool, argv: Sequence[str]) -> Parsed:
    """Read a command line. Options may stand anywhere; ``--`` ends them.

    Raises UsageError for what is not in the table, lacks its value or has a bad one, or is refused.
    """
    table = tool.table()
    parsed: dict[str, Any] = {}
    words: list[str] = []
    left = iter(argv)
    for word in left:
        if word == "--":
            words.extend(left)
        elif len(word) < 2 or word[0] not in "-+":
            words.append(word)
        else:
            option, given = _find(table, word, left)
            if option.effect is Effect.STOP:
                return Parsed(parsed, words, option.field)
            if option.effect is Effect.REFUSED:
                raise UsageError(f"{word} cannot be honoured: {option.help}")
            _apply(option, word.partition("=")[0] if option.values else word, given, parsed)
    return Parsed(parsed, words, "")


def _find(table: dict[str, Option], word: str, left: Iterator[str]) -> tuple[Option, list[str]]:
    """The option that a word names, and the words that are its values."""
    option = table.get(word)
    if option is None:
        name, equals, given = word.partition("=")
        option = table.get(name)
        if option is None or not equals or not name.startswith("--"):
            raise UsageError(f"there is no option {word}{_suggestion(table, name)}")
        if len(option.values) != 1:
            wanted = " ".join(option.values) or "no value"
            raise UsageError(f"{name} takes {wanted}, so it cannot be written with '='")
        return option, [given]
    if option.effect is Effect.REFUSED:
        return option, []
    given_words: list[str] = []
    for name in option.values:
        after = next(left, None)
        if after is None or after in table:
            raise UsageError(f"{word} needs a value ({name}){'' if after is None else f', and {after} is an option'}")
        given_words.append(after)
    return option, given_words


def _apply(option: Option, name: str, given: list[str], parsed: dict[str, Any]) -> None:
    if option.effect is Effect.NOTHING:
        return
    result = option.constant
    if given:
        try:
            result = option.read(*given)
        except ValueError as error:
            raise UsageError(f"{name} {' '.join(given)}: {error}") from None
    if option.effect is Effect.APPEND:
        result = (*parsed.get(option.field, ()), result)
    parsed[option.field] = result


def _suggestion(table: dict[str, Option], name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - needed for this message only

    known = [spelling for spelling, option in table.items() if option.effect is not Effect.REFUSED]
    close = get_close_matches(name, known, 1, 0.6) or get_close_matches(name.lower(), known, 1, 0.5)
    return f", did you mean {close[0]}?" if close else " (a file of that name goes after '--')"


# Help

_INDENT = " " * 6


def help_text(tool: Tool) -> str:
    """What ``--help`` prints."""
    width = min(shutil.get_terminal_size().columns, 100)
    defaults = {field.name: field.default for field in fields(tool.options_type)}
    lines = [f"asyncdicom {tool.name}: {tool.summary}", ""]
    lines += [
        f"{'usage:' if not index else '      '} asyncdicom {tool.name} {form}" for index, form in enumerate(tool.usage)
    ]
    for group in (*tool.groups, GENERAL):
        lines += ["", f"{group.title}:"]
        for words, forms in _entries(group, defaults).items():
            lines += _wrap("; ".join(forms), width, "  ")
            lines += _wrap(words, width, _INDENT)
    for part in tool.notes.split("\n\n"):
        lines += ["", *_wrap(part, width, "")]
    return "\n".join(lines)


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _entries(group: Group, defaults: dict[str, Any]) -> dict[str, list[str]]:
    """What is said of the options of a group, and of which; those with the same words stand together."""
    entries: dict[str, list[str]] = {}
    for option in group.options:
        form = " ".join((", ".join(option.names), *option.values))
        entries.setdefault(_words(option, defaults), []).append(form)
    return entries


def _words(option: Option, defaults: dict[str, Any]) -> str:
    if option.effect is Effect.NOTHING:
        return f"no effect: {option.help}"
    if option.effect is Effect.REFUSED:
        return f"refused: {option.help}"
    default = defaults.get(option.field)
    shown = option.values and default not in (None, "", ()) and option.effect is Effect.SET
    return (
        f"{option.help} (default: {default:g})"
        if shown and isinstance(default, float)
        else (f"{option.help} (default: {default})" if shown else option.help)
    )
