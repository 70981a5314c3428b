"""Values that say where something is: paths, patterns, programs, engines; and what they are read against."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PlainValidator, ValidationInfo

from watcher.settings.errors import UnfitError, shown
from watcher.settings.templates import check_fields, escaped
from watcher.settings.values import text_value

__all__ = [
    "Surroundings",
    "absolute_elsewhere",
    "argument_list",
    "beside_database",
    "engine",
    "host_name",
    "listen_address",
    "log_file",
    "name_of_directory",
    "outside_tree",
    "path",
    "pattern",
    "surroundings",
    "template",
    "walked",
]


def walked(path: Path) -> Path:
    """An absolute path in one spelling, which leads where the kernel would go: `..` up from a symlink's target."""
    parts = ("/", *path.parts[1:])  # pathlib keeps two slashes at the beginning apart from one; the kernel does not
    upward = len(parts) - parts[::-1].index("..") if ".." in parts else 1
    return Path(os.path.realpath(Path(*parts[:upward])), *parts[upward:])


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a value is read against; handed to pydantic as its context.

    Attributes:
        base: the settings file's directory, which relative paths start from.
        home: what a leading `~/` stands for; empty where nobody knows.
        root: `tree.root`, which nothing of ours may lie in; None where it is not known.
        fields: what `tree.layout` names; None where it is not known, and field names are not checked.
    """

    base: Path
    home: str
    root: Path | None = None
    fields: tuple[str, ...] | None = None

    def path(self, text: str) -> Path:
        """The absolute path that a person means: a leading `~/` expanded, relative ones from `base`."""
        return walked(self.base / self.expanded(text))

    def expanded(self, text: str) -> str:
        """`text` with a leading `~/` replaced by the home directory.

        Raises:
            UnfitError: `~somebody`, or no home directory is known.
        """
        return self._home_of(text) + (text[1:] or "/") if text.startswith("~") else text

    def expanded_template(self, text: str) -> str:
        """The same for a template; braces in the home directory's name stay what they are."""
        return escaped(self._home_of(text)) + text[1:] if text.startswith("~") else text

    def _home_of(self, text: str) -> str:
        if text != "~" and not text.startswith("~/"):
            raise UnfitError(f"only ~/ is expanded, got {shown(text)}; write ./~… for a file of that name")
        if not self.home.startswith("/"):
            raise UnfitError(f"~/ stands for the home directory, and this user has none; got {shown(text)}")
        return self.home.rstrip("/")


def surroundings(base: Path, environ: Mapping[str, str]) -> Surroundings:
    """Where relative paths and `~/` lead, before anything of the settings is known."""
    home = environ.get("HOME", "")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a uid without an account, as containers have them
            home = ""
    return Surroundings(base, home)


def _around(info: ValidationInfo) -> Surroundings:
    """The context; a model that is made without one (in a test) takes paths from the current directory."""
    given = info.context
    return given if isinstance(given, Surroundings) else surroundings(Path.cwd(), os.environ)


def path(expected: str = "a path") -> PlainValidator:
    """A path, made absolute."""

    def validate(value: object, info: ValidationInfo) -> Path:
        return _around(info).path(text_value(value, expected))

    return PlainValidator(validate)


def outside_tree(expected: str) -> PlainValidator:
    """A path of our own, made absolute: never in the tree, where containers write, and never around it."""

    def validate(value: object, info: ValidationInfo) -> Path:
        around = _around(info)
        return _outside_tree(around.path(text_value(value, expected)), around, expected)

    return PlainValidator(validate)


def log_file() -> PlainValidator:
    """A file outside the tree, whose path loguru takes as it is: it would read braces as fields of its own."""

    def validate(value: object, info: ValidationInfo) -> Path:
        text, around = text_value(value, "a file"), _around(info)
        file = around.path(text)
        if text.endswith("/") or any(brace in os.fspath(file) for brace in "{}"):
            raise UnfitError(f"expected a file, without braces in its path, got {shown(file)}")
        return _outside_tree(file, around, "a file")

    return PlainValidator(validate)


def _outside_tree(ours: Path, around: Surroundings, expected: str) -> Path:
    if around.root is None:
        return ours
    root = f"tree.root ({shown(around.root)})"
    if _lies_in(ours, around.root):
        raise UnfitError(
            f"expected {expected} outside {root}, got {shown(ours)}: the tree is what containers write",
            related=("tree.root",),
        )
    if _lies_in(around.root, ours):
        raise UnfitError(f"expected {expected} with no {root} inside it, got {shown(ours)}", related=("tree.root",))
    return ours


def _lies_in(inner: Path, outer: Path) -> bool:
    """Whether two paths are the same or one is above the other, symlinks and parts that do not exist yet included.

    By real path; and by identity, since a case-insensitive file system and a bind mount give one directory two names.
    """
    real_inner, real_outer = Path(os.path.realpath(inner)), Path(os.path.realpath(outer))
    if real_inner.is_relative_to(real_outer):
        return True
    try:
        target = real_outer.stat()
    except OSError:  # not there, or not ours to see: then nothing that exists can be the same
        return False
    for ancestor in (real_inner, *real_inner.parents):
        try:
            if os.path.samestat(ancestor.stat(), target):
                return True
        except OSError:  # does not exist yet
            continue
    return False


def absolute_elsewhere() -> PlainValidator:
    """An absolute path on another machine (the engine's), where our own directories and home mean nothing."""

    def validate(value: object) -> Path:
        text = text_value(value, "an absolute path")
        if not text.startswith("/"):
            raise UnfitError(f"expected an absolute path, got {shown(text)}")
        return Path(text)

    return PlainValidator(validate)


def template(expected: str, *, may_be_empty: bool = False) -> PlainValidator:
    """A text in which fields of tree.layout may stand."""

    def validate(value: object, info: ValidationInfo) -> str:
        if value == "" and may_be_empty:
            return ""
        text = text_value(value, expected)
        check_fields(text, _around(info).fields)
        return text

    return PlainValidator(validate)


def beside_database(example: str) -> PlainValidator:
    """A file, as a template: absolute, or relative to the directory of each database and never above it."""
    expected = f"a file beside the database, such as {example}, or an absolute path"

    def validate(value: object, info: ValidationInfo) -> str:
        around = _around(info)
        text = around.expanded_template(text_value(value, expected))
        check_fields(text, around.fields)
        components = text.split("/")
        if ".." in components or components[-1] in {"", "."}:
            raise UnfitError(f"expected {expected}, without .. in it, got {shown(text)}")
        return text

    return PlainValidator(validate)


def argument_list(example: str = '[./alive.sh, "{session}"]') -> BeforeValidator:
    """A program and its arguments, all templates; a program that is named by a relative path starts from `base`."""
    expected = f"a list of a program and its arguments, such as {example}"

    def validate(value: object, info: ValidationInfo) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not value:
            raise UnfitError(f"expected {expected}, got {'an empty list' if value in ([], ()) else shown(value)}")
        around = _around(info)
        program, *arguments = (_argument(each) for each in value)
        for each in (program, *arguments):
            check_fields(each, around.fields)
        if not program:
            raise UnfitError(f"expected {expected}, got an empty text for the program")
        if "/" not in program:
            if "{" in program:
                # A session may be called `sh`: what the tree is called must not choose a program from PATH.
                raise UnfitError(
                    f"expected a program that has no field in its name, or a path to it, got {shown(program)}"
                )
            return (program, *arguments)
        program = around.expanded_template(program)
        if not program.startswith("/"):
            program = f"{escaped(os.fspath(around.base))}/{program.removeprefix('./')}"
        return (program, *arguments)

    return BeforeValidator(validate)


def _argument(value: object) -> str:
    return "" if value == "" else text_value(value, "a list of texts")


def pattern() -> PlainValidator:
    """A shell pattern on a file's name."""
    expected = "a shell pattern on a file's name, such as outbound.db or *.db"

    def validate(value: object) -> str:
        text = text_value(value, expected)
        if "/" in text or text in {".", ".."}:
            raise UnfitError(f"expected {expected}, without a directory, got {shown(text)}")
        if re.search(r"\{[^{}]*\}", text):
            raise UnfitError(
                f"expected {expected}, without braces (write a * for them, or two patterns), got {shown(text)}"
            )
        return text

    return PlainValidator(validate)


def name_of_directory() -> PlainValidator:
    """The whole name of a directory."""

    def validate(value: object) -> str:
        text = text_value(value, "the name of a directory")
        if "/" in text or text in {".", ".."}:
            raise UnfitError(f"expected the name of a directory, not a path, got {shown(text)}")
        if any(character in text for character in "*?["):
            raise UnfitError(f"expected the whole name of a directory, not a pattern, got {shown(text)}")
        return text

    return PlainValidator(validate)


def engine() -> PlainValidator:
    """A container engine: a kind whose usual place is looked up, or an address."""
    expected = "docker, podman, unix:///path/to/socket, tcp://host:port or ssh://user@host"

    def validate(value: object) -> str:
        text = text_value(value, expected)
        if text in {"docker", "podman"}:
            return text
        try:
            address = urlsplit(text)
            port = address.port
        except ValueError:
            raise UnfitError(f"expected {expected}, got {shown(text)}") from None
        if address.password is not None:
            raise UnfitError(f"expected {expected}; a password cannot be part of the address")
        plain = text.isprintable() and " " not in text and not (address.query or address.fragment)
        match address.scheme:
            case "unix":
                sound = not address.netloc and len(address.path) > 1
            case "tcp":
                sound = bool(address.hostname) and bool(port)
            case "ssh":
                sound = bool(address.hostname) and not address.path
            case _:
                sound = False
        if not (plain and sound):
            raise UnfitError(f"expected {expected}, got {shown(text)}")
        return text

    return PlainValidator(validate)


_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*")


def host_name() -> PlainValidator:
    """A name that a browser knows this machine by, in lower case; no pattern: each name is one that was meant."""
    expected = "the name of a host, such as watcher.lan"

    def validate(value: object) -> str:
        text = text_value(value, expected)
        if "://" in text or "/" in text or re.search(r":\d*$", text):
            raise UnfitError(f"expected {expected}, without a scheme, port or path, got {shown(text)}")
        name = text.lower().removesuffix(".")
        if len(name) > 253 or _HOST_NAME.fullmatch(name) is None:
            hint = "; write it as DNS has it (xn--…)" if not text.isascii() else ""
            raise UnfitError(f"expected {expected}, got {shown(text)}{hint}")
        return name

    return PlainValidator(validate)


def listen_address() -> PlainValidator:
    """An address of this machine and a port. No name: what a name stands for may change, and be more than was meant."""
    expected = "an address and a port, such as 127.0.0.1:9464 or [::1]:9464"

    def validate(value: object) -> str:
        text = text_value(value, expected)
        host, _, port = text.rpartition(":")
        try:
            address = ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            hint = "; write 127.0.0.1 for localhost" if host == "localhost" else ""
            raise UnfitError(f"expected {expected}, got {shown(text)}{hint}") from None
        is_bracketed = host.startswith("[") and host.endswith("]")
        if is_bracketed is not (address.version == 6) or not (port.isdecimal() and port.isascii()):
            raise UnfitError(f"expected {expected}, got {shown(text)}")
        if len(port) > 5 or not 0 < int(port) <= 65535:
            raise UnfitError(f"expected {expected}, with a port from 1 to 65535, got {shown(text)}")
        return text

    return PlainValidator(validate)
