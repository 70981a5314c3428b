"""The units for Compose and Kubernetes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import yaml

from watcher.units.facts import Facts, UnitError
from watcher.units.template import fill
from watcher.version import VERSION

__all__ = ["compose", "dns_label", "kubernetes"]

_USUAL_PORT = "9464"
_MOST_IN_A_NAME = 40


def compose(facts: Facts) -> str:
    """A service for `docker compose`."""
    listens = facts.listens_on
    port = _USUAL_PORT if listens is None else listens[1]
    inside = _USUAL_PORT if facts.wants_a_low_port else port  # which it could not listen on without a capability
    asks = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{inside}/livez', timeout=5)"
    settings = str(facts.settings_file)
    environment = dict(facts.environment)
    if listens is not None:
        environment["JOURNAL_WATCHER__METRICS__LISTEN"] = f"0.0.0.0:{inside}"  # of the container's own network
    health = ["CMD", "journal-watcher", "status", "-c", settings]
    if listens is not None:
        health = ["CMD", "python3", "-c", asks]
    outside = "127.0.0.1" if listens is None or listens[0] == "::1" else listens[0]
    values = _of_containers(facts) | {
        "user": _in_compose(f"{facts.uid}:{facts.gid}"),
        "engine_group": json.dumps(str(facts.engine_gid)),
        "port_mapping": json.dumps(f"{outside}:{port}:{inside}"),
        "environment": "\n".join(f"      {json.dumps(name)}: {_in_compose(v)}" for name, v in environment.items()),
        "arguments": _in_compose(["run", "-c", settings]),
        "health": _in_compose(health),
        "make_state_in_comment": _made_by_hand(facts),
    }
    for name in ("settings", "tree", "state_dir", "log_dir", "engine_socket"):
        values[name] = values[name].replace("$", "$$")  # Compose fills in variables
    return fill("compose.yaml", values, _flags(facts) | {"environment": bool(environment)})


def kubernetes(facts: Facts) -> str:
    """A DaemonSet, with its settings.

    Raises:
        UnitError: a path with a colon, which Kubernetes mounts nowhere.
    """
    for path in (facts.settings_file, facts.tree, facts.state_dir, facts.log_dir):
        if path is not None and ":" in str(path):
            raise UnitError(f"{path} has a colon in it, and Kubernetes mounts nothing there")
    own = ["install", "-d", "-m", "0700", "-o", str(facts.uid), "-g", str(facts.gid), str(facts.state_dir)]
    if facts.log_dir is not None:
        own.append(str(facts.log_dir))
    taken = {"JOURNAL_WATCHER__METRICS__LISTEN", "JOURNAL_WATCHER__OWNER__CONTAINER"}
    environment = {
        name: value
        for name, value in facts.environment.items()
        if name.upper() not in taken and not name.startswith(("DOCKER_", "CONTAINER_"))
    }
    values = _of_containers(facts) | {
        "name": dns_label(facts.instance),
        "uid": str(facts.uid),
        "gid": str(facts.gid),
        "port": _USUAL_PORT if facts.listens_on is None else facts.listens_on[1],
        "settings_text": _block(facts.settings_text),
        "environment": "\n".join(
            f"            - {{name: {_quoted(name)}, value: {_quoted(value.replace('$(', '$$('))}}}"
            for name, value in environment.items()
        ),
        "arguments": _quoted([each.replace("$(", "$$(") for each in ("run", "-c", str(facts.settings_file))]),
        "own": _quoted([each.replace("$(", "$$(") for each in own]),
    }
    flags = _flags(facts) | {
        "environment": bool(environment),
        "container": facts.engine_address is not None,
        "low_port": facts.wants_a_low_port,
    }
    return fill("kubernetes.yaml", values, flags)


def _of_containers(facts: Facts) -> dict[str, str]:
    return {
        "instance": facts.instance,
        "image": f"journal-watcher:{re.sub('[^A-Za-z0-9_.-]', '-', VERSION)}",
        "settings": _quoted(str(facts.settings_file)),
        "tree": _quoted(str(facts.tree)),
        "state_dir": _quoted(str(facts.state_dir)),
        "log_dir": _quoted(str(facts.log_dir)),
        "engine_socket": _quoted(str(facts.engine_socket)),
    }


def _flags(facts: Facts) -> dict[str, bool]:
    return {
        "root": facts.uid == 0,
        "log_file": facts.log_dir is not None and not facts.log_dir.is_relative_to(facts.state_dir),
        "engine_socket": facts.engine_socket is not None,
        "engine_group": facts.engine_gid is not None,
        "network": facts.needs_network,
    }


def _quoted(value: str | list[str]) -> str:
    """As YAML in one line: JSON, but for characters that JSON has in two halves, or YAML not at all."""
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    plain = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in plain)


def _in_compose(value: str | list[str]) -> str:
    return _quoted(value).replace("$", "$$")


def _block(text: str) -> str:
    """A text as a block of YAML, indented below a key; quoted where a block cannot hold it."""

    class Block(yaml.SafeDumper):
        pass

    Block.add_representer(str, lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|"))
    told: str = yaml.dump([text], Dumper=Block, width=10**6, allow_unicode=True)
    return told.removeprefix("- ").rstrip("\n").replace("\n", "\n  ")


def dns_label(instance: str) -> str:
    """A name for it that Kubernetes and others take."""
    label = re.sub(r"[^a-z0-9]+", "-", instance.lower())[:_MOST_IN_A_NAME].strip("-")
    return label or "journal-watcher"


def _made_by_hand(facts: Facts) -> str:
    path = shlex.quote(_in_one_line(facts.state_dir))
    return f"install -d -m 0700 -o {facts.uid} -g {facts.gid} {path}"


def _in_one_line(path: Path) -> str:
    return str(path).replace("\n", "…").replace("\r", "…")
