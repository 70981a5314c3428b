"""The settings file as plain data: bounded in bytes, nodes and depth, and every fault of it with line and column.

PyYAML reads; three things are ours. It resolves only what YAML 1.2's core schema does, so that `locks: off`, `1:30` and
`2026-11-24` are the texts that they look like (YAML 1.1 makes a boolean, a number and a date of them). Anchors are
refused, which ends alias bombs and recursive aliases before they begin. And its constructor, which knows Python
objects and raises bare ValueErrors, is not used.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from yaml import MappingNode, Node, ScalarNode, SequenceNode
from yaml.composer import Composer
from yaml.error import MarkedYAMLError, YAMLError
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from watcher.settings.errors import EMPTY, Problem, UnfitError, clipped, dotted

__all__ = ["parse", "read_text"]

_LARGEST_FILE = 2**20
_MOST_NODES = 10_000
_DEEPEST = 32

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:~|null|Null|NULL|)")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"(?:[-+]?[0-9]{1,20}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,16})")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]{1,30}|[0-9]{1,30}(?:\.[0-9]{0,30}|(?=[eE])))(?:[eE][-+]?[0-9]{1,5})?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_UNQUOTED = re.compile(r"[:,\[-] ?[{*&]")


def read_text(path: str) -> str:
    """The text of a settings file.

    Raises:
        UnfitError: it is not there, cannot be read, is no plain file, is larger than 1 MiB, or is no UTF-8. A FIFO or a
            device is not waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise UnfitError(_why_not(error)) from None
    except ValueError:
        raise UnfitError("no file can have this name") from None
    try:
        content = _bounded(descriptor)
    except OSError as error:
        raise UnfitError(_why_not(error)) from None
    finally:
        os.close(descriptor)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnfitError(
            f"expected UTF-8, got the byte 0x{content[error.start]:02x} at position {error.start}, in line {line}"
        ) from None


def _why_not(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return (
                "there is no such file; name one by -c or $JOURNAL_WATCHER_CONFIG, or begin with settings.example.yaml"
                " or with this one line: tree: {root: /where/the/sessions/are}"
            )
        case errno.ENXIO:
            return "expected a plain file, got a socket or a device"
        case _:
            return f"cannot be read: {os.strerror(error.errno or 0)}"


def _bounded(descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        kind = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise UnfitError(f"expected a plain file, got {kind.get(stat.S_IFMT(status.st_mode), 'a device')}")
    content = b""
    if status.st_size <= _LARGEST_FILE:
        while len(content) <= _LARGEST_FILE and (piece := os.read(descriptor, _LARGEST_FILE + 1 - len(content))):
            content += piece
    if status.st_size > _LARGEST_FILE or len(content) > _LARGEST_FILE:
        raise UnfitError(f"expected a file of at most 1 MiB, got {max(status.st_size, len(content))} bytes")
    return content


def parse(text: str) -> tuple[object, list[Problem]]:
    """The data of one YAML document, and what is wrong in it that does not keep the rest from being read.

    Returns:
        Lists, dicts with str keys, str, int, float, bool, None, and EMPTY for a key with nothing after it; and the
        problems: a key that is written twice (the first one counts), a key that is no text, a tag.

    Raises:
        UnfitError: it is no YAML, or has an alias, or is too deep or has too many entries; with line and column.
    """
    try:
        composer = _BoundedComposer(text)
    except ReaderError as error:
        raise UnfitError(_control_character(error, text)) from None
    try:
        root = composer.get_single_node()
    except MarkedYAMLError as error:
        raise UnfitError(_told(error, text)) from None
    except (YAMLError, ValueError, OverflowError):  # PyYAML converts some numbers, as in "\U7fffffff", unguarded
        line, column = composer.line + 1, composer.column + 1
        raise UnfitError(f"line {line}, column {column}: not YAML: a number that means nothing here") from None
    problems: list[Problem] = []
    return (EMPTY if root is None else _data(root, (), problems)), problems


class _RefusedError(MarkedYAMLError):
    """It is YAML, but more of it than settings need."""


def _implicit_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """By the first character of a plain scalar, as PyYAML looks them up: tags with the whole texts that have them."""
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, form, first in (
        ("null", _NULL, ["~", "n", "N", ""]),
        ("bool", _BOOL, [*"tTfF"]),
        ("int", _INT, [*"-+0123456789"]),
        ("float", _FLOAT, [*"-+.0123456789"]),
    ):
        for character in first:
            resolvers.setdefault(character, []).append((_TAG + name, re.compile(form.pattern + r"\Z")))
    return resolvers


class _BoundedComposer(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to its nodes, as a stream that stops at a bound."""

    yaml_implicit_resolvers = _implicit_resolvers()

    def __init__(self, text: str) -> None:
        self._nodes = 0
        self._depth = 0
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self._nodes += 1
        self._depth += 1
        if self._nodes > _MOST_NODES:
            raise _RefusedError(problem=f"more than {_MOST_NODES} entries", problem_mark=self.get_mark())
        if self._depth > _DEEPEST:
            raise _RefusedError(problem=f"nested deeper than {_DEEPEST} levels", problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        if self.anchors and node is not None:
            # At the first node that is complete: before an alias can have been repeated, or have met itself.
            raise _RefusedError(problem="&name and *name are not possible here", problem_mark=node.start_mark)
        return node


def _control_character(error: ReaderError, text: str) -> str:
    line = text.count("\n", 0, error.position) + 1
    column = error.position - text.rfind("\n", 0, error.position)
    return f"line {line}, column {column}: a control character, {clipped(text[error.position])}"


def _told(error: MarkedYAMLError, text: str) -> str:
    problem, mark = clipped(error.problem or "", 120), error.problem_mark or error.context_mark
    if mark is None:
        return f"not YAML: {problem}"
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    if isinstance(error, _RefusedError):
        return f"{place}: {problem}"
    if text[mark.index : mark.index + 1] == "\t":
        return f"{place}: not YAML: a tab; it is indented with spaces"
    context = ""
    if error.context and error.context_mark is not None:
        context = f" ({clipped(error.context)} that begins in line {error.context_mark.line + 1})"
    line = text[text.rfind("\n", 0, mark.index) + 1 : mark.index + 1]
    hint = '; a value that begins with {, * or & needs quotes: "{session}", "*.db"' if _UNQUOTED.search(line) else ""
    return f"{place}: not YAML: {problem}{context}{hint}"


def _data(node: Node, path: tuple[str | int, ...], problems: list[Problem]) -> object:
    match node:
        case MappingNode() if node.tag == _TAG + "map":
            return _mapping(node, path, problems)
        case SequenceNode() if node.tag == _TAG + "seq":
            return [_data(each, (*path, index), problems) for index, each in enumerate(node.value)]
        case ScalarNode() if node.tag.startswith(_TAG):
            scalar = _scalar(node)
            if scalar is not _NOT_A_SCALAR:
                return scalar
    tag = clipped(node.tag.replace(_TAG, "!!"))
    problems.append(Problem(dotted(path), f"expected a plain value, got the tag {tag} in line {_line(node)}"))
    return EMPTY


_NOT_A_SCALAR = object()


def _scalar(node: ScalarNode) -> object:
    text: str = node.value
    match node.tag.removeprefix(_TAG):
        case "str":
            return _paired(text)
        case "null" if _NULL.fullmatch(text):
            return EMPTY if not text and not node.style else None
        case "bool" if _BOOL.fullmatch(text):
            return text.lower() == "true"
        case "int" if _INT.fullmatch(text):
            return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
        case "float" if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return _NOT_A_SCALAR


def _mapping(node: MappingNode, path: tuple[str | int, ...], problems: list[Problem]) -> dict[str, object]:
    data: dict[str, object] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str":
            found = (
                f'the key "{clipped(key_node.value)}"' if isinstance(key_node, ScalarNode) else "a list or a mapping"
            )
            problems.append(Problem(dotted(path), f"expected a text for a key in line {_line(key_node)}, got {found}"))
            continue
        key = _paired(key_node.value)
        if not _is_unicode(key):
            message = (
                f'expected a text for a key in line {_line(key_node)}, got "{clipped(key)}", which has no UTF-8 form'
            )
            problems.append(Problem(dotted(path), message))
            continue
        if key in lines:
            message = f"written twice, in line {lines[key]} and in line {_line(key_node)}"
            problems.append(Problem(dotted((*path, key)), message))
            continue
        lines[key] = _line(key_node)
        data[key] = _data(value_node, (*path, key), problems)
    return data


def _paired(text: str) -> str:
    """JSON writes what lies beyond 16 bits as two escapes, which PyYAML leaves apart."""
    if _is_unicode(text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:  # half a pair: it stays, for the error that it deserves
        return text


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
