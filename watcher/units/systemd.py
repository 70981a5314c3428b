"""The unit for systemd."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from watcher.units.facts import Facts, UnitError
from watcher.units.template import fill

__all__ = ["systemd"]

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "%": "%%"}

_OF_ROOT = ("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_PTRACE")
_LOW_PORT = "CAP_NET_BIND_SERVICE"


def systemd(facts: Facts) -> str:
    """The unit file.

    Raises:
        UnitError: a path that systemd has no way to write.
    """
    log_dir = facts.log_dir
    has_log = log_dir is not None and log_dir != facts.state_dir
    # With a dash: a root that is missing is waited for, and the others are made by commands for which systemd (252)
    # would look for these paths, too.
    writable = [facts.state_dir, *([log_dir] if has_log and log_dir else []), facts.tree]
    is_ssh = (facts.engine_address or "").startswith("ssh:")
    may_do_nothing_special = facts.uid != 0 and not facts.runs_programs and not is_ssh
    return fill(
        "systemd.service",
        {
            "instance": facts.instance,
            "instance_in_unit": facts.instance.replace("%", "%%"),
            "unit": _unit_name(facts.instance),
            "command": shlex.join(facts.argv[: facts.argv.index("run")]),
            "settings_in_shell": _in_comment(shlex.quote(str(facts.settings_file))),
            "own_paths": _paths([facts.settings_file, facts.state_dir]),
            "make_state": _arguments(_made(facts, facts.state_dir, "0700")),
            "make_log": _arguments(_made(facts, log_dir, "0750")) if log_dir else "",
            "argv": _arguments(facts.argv),
            "environment": " ".join(_argument(f"{name}={value}") for name, value in facts.environment.items()),
            "watchdog_s": str(facts.watchdog_s),
            "user": facts.user,
            "group": str(facts.gid),
            "engine_group": str(facts.engine_gid),
            "writable": " ".join(_path(each, "-") for each in writable),
            "root_capabilities": " ".join(_OF_ROOT + ((_LOW_PORT,) if facts.wants_a_low_port else ())),
            "user_capabilities": _LOW_PORT if facts.wants_a_low_port else "",
            "protect_home": "read-only" if facts.needs_homes or facts.engine_address else "yes",
        },
        {
            "root": facts.uid == 0,
            "log_file": has_log,
            "environment": bool(facts.environment),
            "engine_group": facts.engine_gid is not None,
            "private_tmp": not facts.needs_temporary,
            "programs": facts.runs_programs,
            "network": facts.needs_network,
            "low_port": facts.wants_a_low_port,
            "loopback_only": _only_loopback(facts),
            "no_privileged_calls": may_do_nothing_special,
            "no_resource_calls": may_do_nothing_special and not facts.verifies,
        },
    )


def _only_loopback(facts: Facts) -> bool:
    """Whether all that goes over the network is what is asked on this machine itself."""
    is_local_engine = facts.engine_address is None or facts.engine_socket is not None
    return (
        facts.listens_on is not None
        and (facts.listens_on[0].startswith("127.") or facts.listens_on[0] == "::1")
        and is_local_engine
        and not facts.runs_programs
    )


def _made(facts: Facts, path: Path, mode: str) -> list[str]:
    """How the service's own user makes a directory: never root on its behalf, whom a symlink might lead elsewhere."""
    mkdir = ["mkdir", "-p", "-m", mode, "--", str(path)]
    if facts.uid == 0:
        return mkdir
    return ["setpriv", f"--reuid={facts.uid}", f"--regid={facts.gid}", "--clear-groups", "--", *mkdir]


def _arguments(argv: Iterable[str]) -> str:
    return " ".join(map(_argument, argv))


def _argument(text: str) -> str:
    """One argument of a command line, or one assignment (systemd.syntax(7), "Quoting"; the command begins with a colon,
    so that a dollar is a dollar)."""
    if re.fullmatch(r"[A-Za-z0-9_./:=,+@-]+", text):
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    return _ESCAPES.get(character) or (character if character.isprintable() else _by_its_bytes(character))


def _by_its_bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _paths(paths: Iterable[Path]) -> str:
    return " ".join(map(_path, paths))


def _path(path: Path, prefix: str = "") -> str:
    """One path of a list, where a backslash only takes the next character as it is: no line's end can be written."""
    text = str(path)
    if any(ord(character) < 0x20 for character in text):
        raise UnitError(f"{text!a} has a control character in it, which a list of paths in a unit cannot hold")
    if re.fullmatch(r"[A-Za-z0-9_./:=,+@-]+", text):
        return prefix + text
    return '"' + prefix + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _unit_name(instance: str) -> str:
    """A name that may stand before `.service`."""
    plain = re.sub(r"[^A-Za-z0-9:_.-]+", "-", instance).strip("-.")
    return f"journal-watcher-{plain}" if plain else "journal-watcher"


def _in_comment(text: str) -> str:
    return text.replace("\n", "…")
