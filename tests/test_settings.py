"""The settings: what a person gets from a file, and what a person is told who made a mistake in one."""

from __future__ import annotations

import os
import socket
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from watcher.settings import (
    ContainerSettings,
    LocksMode,
    LogLevel,
    Problem,
    Settings,
    SettingsError,
    TreeSettings,
    load_settings,
)
from watcher.settings.places import Surroundings

LAYOUT = 'tree: {root: ./data, layout: "{agent_group}/{session}"}\n'
"""A sound beginning of a file, with two fields to use further down."""


def load(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a file with this text in this directory."""
    file = directory / "settings.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return load_settings(file, {} if environ is None else environ)


def mistakes(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """What a person is told about such a file, a line for each mistake, without the directory."""
    with pytest.raises(SettingsError) as told:
        load(directory, text, environ)
    return str(told.value).replace(f"{directory}/settings.yaml: ", "settings.yaml: ").splitlines()


def test_only_the_root_is_required_and_the_rest_has_the_promised_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, "tree: {root: ./data/v2-sessions}")

    assert settings.file == tmp_path / "settings.yaml"
    assert settings.model_dump(by_alias=True, mode="json") == {
        "instance": tmp_path.name,
        "state_dir": f"{tmp_path}/.journal-watcher",
        "tree": {
            "root": f"{tmp_path}/data/v2-sessions",
            "layout": None,
            "databases": ["*"],
            "exclude": [],
            "host_root": None,
        },
        "owner": {"locks": "auto", "pid_file": None, "container": None, "heartbeat": None, "command": None},
        "recovery": {
            "settle": None,
            "busy_timeout": 2,
            "workers": 4,
            "verify": "read",
            "max_journal_size": 2**30,
            "snapshot": {"keep": 3, "max_size": 64 * 2**20, "max_total": 2 * 2**30, "required": False},
            "retry": {"first": 1, "max": 300},
        },
        "watch": {"backend": "auto", "sweep_interval": 30, "hold_warning": 60},
        "history": {"keep": 10000, "max_age": 90 * 86400},
        "hooks": {"recovered": None, "held": None, "failed": None, "corrupt": None, "timeout": 10},
        "log": {
            "level": "INFO",
            "file": None,
            "json": False,
            "rotation": "10 MB",
            "retention": 10,
            "compression": None,
        },
        "metrics": {"listen": None, "page": True, "hosts": []},
    }


def test_optional_sections_have_the_promised_defaults_too(tmp_path: Path) -> None:
    settings = load(tmp_path, "tree: {root: x}\nowner: {container: {}, heartbeat: {}, command: {argv: [alive]}}")

    assert settings.owner.model_dump(exclude={"locks", "pid_file"}) == {
        "container": {"engine": "docker", "labels": {}, "name": None, "mounts": True, "ignore": (), "timeout": 2.0},
        "heartbeat": {"file": ".heartbeat", "max_age": 10.0},
        "command": {"argv": ("alive",), "timeout": 5.0},
    }


def test_everything_can_be_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        instance: nanoclaw
        state_dir: state
        tree:
          root: /srv/tree
          layout: "{agent_group}/x-{session}"
          databases: ["outbound.db", "*.sqlite"]
          exclude: [node_modules]
          host_root: /host/tree
        owner:
          locks: off
          pid_file: "{session}.pid"
          container:
            engine: unix:///run/podman.sock
            labels: {group: "{agent_group}", empty: ""}
            name: "agent-{session}-*"
            mounts: false
            ignore: ["backup"]
            timeout: 500ms
          heartbeat: {file: "/run/{{x}}/{session}", max_age: 1m}
          command: {argv: [alive, "{session}", ""], timeout: 1s}
        recovery:
          settle: 250ms
          busy_timeout: 0
          workers: 64
          verify: full
          max_journal_size: 10MB
          snapshot: null
          retry: {first: 0.5, max: 1h}
        watch: {backend: polling, sweep_interval: 100ms, hold_warning: 2m}
        history: {keep: 5, max_age: 2d}
        hooks: {held: [./page.sh, "{session}", ""], timeout: 1m}
        metrics: {listen: "[::1]:9464", page: false, hosts: [Watcher.LAN., "10.0.0.1.nip.io"]}
        log: {level: debug, file: log/watcher.log, json: true, rotation: daily, retention: 1 week, compression: gz}
        """,
    )

    assert settings.owner.locks is LocksMode.OFF
    assert settings.log.level is LogLevel.DEBUG
    assert settings.model_dump(mode="json") == {
        "instance": "nanoclaw",
        "state_dir": f"{tmp_path}/state",
        "tree": {
            "root": "/srv/tree",
            "layout": "{agent_group}/x-{session}",
            "databases": ["outbound.db", "*.sqlite"],
            "exclude": ["node_modules"],
            "host_root": "/host/tree",
        },
        "owner": {
            "locks": "off",
            "pid_file": "{session}.pid",
            "container": {
                "engine": "unix:///run/podman.sock",
                "labels": {"group": "{agent_group}", "empty": ""},
                "name": "agent-{session}-*",
                "mounts": False,
                "ignore": ["backup"],
                "timeout": 0.5,
            },
            "heartbeat": {"file": "/run/{{x}}/{session}", "max_age": 60.0},
            "command": {"argv": ["alive", "{session}", ""], "timeout": 1.0},
        },
        "recovery": {
            "settle": 0.25,
            "busy_timeout": 0.0,
            "workers": 64,
            "verify": "full",
            "max_journal_size": 10_000_000,
            "snapshot": None,
            "retry": {"first": 0.5, "max": 3600.0},
        },
        "watch": {"backend": "polling", "sweep_interval": 0.1, "hold_warning": 120.0},
        "history": {"keep": 5, "max_age": 172800.0},
        "hooks": {
            "recovered": None,
            "held": [f"{tmp_path}/page.sh", "{session}", ""],
            "failed": None,
            "corrupt": None,
            "timeout": 60.0,
        },
        "log": {
            "level": "DEBUG",
            "file": f"{tmp_path}/log/watcher.log",
            "json_lines": True,
            "rotation": "daily",
            "retention": "1 week",
            "compression": "gz",
        },
        "metrics": {"listen": "[::1]:9464", "page": False, "hosts": ["watcher.lan", "10.0.0.1.nip.io"]},
    }


def one_mistake(directory: Path, text: str) -> str:
    """The one line that a person is told about a file with this text below a sound `tree` with two fields."""
    (line,) = mistakes(directory, LAYOUT + text)
    return line.removeprefix("settings.yaml: ")


class TestOneMistake:
    """Each is told with its place, what was expected, and what is there."""

    @pytest.mark.parametrize(
        "text", ["", "# nothing but a comment", "tree:", "tree: {root: }", "tree: {}", "tree: {root}"]
    )
    def test_without_a_root(self, tmp_path: Path, text: str) -> None:
        assert mistakes(tmp_path, text) == ["settings.yaml: tree.root: this key is required"]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("watch: {back-end: x}", "watch.back-end: unknown key; did you mean watch.backend?"),
            ("owner: {pidfile: x}", "owner.pidfile: unknown key; did you mean owner.pid_file?"),
            ("workers: 4", "workers: unknown key; did you mean recovery.workers?"),
            ("file: x", "file: unknown key; did you mean owner.heartbeat.file or log.file?"),
            ("watch.backend: x", "watch.backend: unknown key; keys are nested: write watch: {backend: …}"),
            ("log: {json_lines: true}", "log.json_lines: unknown key; the keys here are level, file, json, rotation, "),
            (
                "alerts: {}",
                "alerts: unknown key; the keys here are instance, state_dir, tree, owner, recovery, watch, ",
            ),
            ("owner: {container: {labels: {a: x}, label: x}}", "did you mean owner.container.labels?"),
        ],
    )
    def test_in_the_name_of_a_key(self, tmp_path: Path, text: str, told: str) -> None:
        assert told in one_mistake(tmp_path, text)

    @pytest.mark.parametrize(
        ("section", "told"),
        [
            ("recovery: null", "recovery: expected keys below it (settle, busy_timeout, workers, verify, "),
            ("recovery: null", ") or {} for their defaults, got null"),
            ("recovery: [1]", ", got a list"),
            ("recovery: {snapshot: }", ", {} for their defaults or null for none, got nothing"),
            ("recovery: {snapshot: off}", ', got "off"'),
            ("owner: {container: }", "or null for none, got nothing"),
            ("owner: {container: docker}", ', got "docker"'),
            ("owner: {heartbeat: true}", "owner.heartbeat: expected keys below it (file, max_age)"),
            ("owner: {command: }", "expected keys below it (argv, timeout) or null for none, got nothing"),
            ("owner: {command: {}}", "owner.command.argv: this key is required"),
        ],
    )
    def test_in_a_section(self, tmp_path: Path, section: str, told: str) -> None:
        assert told in one_mistake(tmp_path, section)

    @pytest.mark.parametrize(
        "value", ["many", "0", "65", "-1", "4.0", "yes", "true", "null", '"4"', "[4]", "{4: 4}", "9" * 99]
    )
    def test_in_a_number(self, tmp_path: Path, value: str) -> None:
        line = mistakes(tmp_path, f"tree: {{root: x}}\nrecovery: {{workers: {value}}}")[-1]
        assert "recovery.workers: expected a whole number from 1 to 64, got " in line

    @pytest.mark.parametrize(
        "value", ["soon", "50ms", "2d", "-1", "true", "null", ".nan", ".inf", "1:30", "5 minutes", "5M"]
    )
    def test_in_a_duration(self, tmp_path: Path, value: str) -> None:
        expected = "a duration from 100ms to 1d, such as 250ms, 30s, 5m, 1h or 2d"
        assert one_mistake(tmp_path, f"watch: {{sweep_interval: {value}}}").startswith(
            f"watch.sweep_interval: expected {expected}, got "
        )

    @pytest.mark.parametrize("value", ["huge", "1", "17TiB", "-1", "1024.5", "64M", "64mib", "64 Mi B", "true", "null"])
    def test_in_a_size(self, tmp_path: Path, value: str) -> None:
        expected = "a size from 512B to 16TiB, such as 500KiB, 64MiB or 2GB"
        assert one_mistake(tmp_path, f"recovery: {{max_journal_size: {value}}}").startswith(
            f"recovery.max_journal_size: expected {expected}, got "
        )

    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            ("verify: fast", 'recovery.verify: expected read, quick or full, got "fast"'),
            ("verify: Read", 'got "Read"'),
            ("settle: soon", "recovery.settle: expected auto or a duration from 0s to 1h, "),
            ("busy_timeout: 11m", "recovery.busy_timeout: expected a duration from 0s to 10m, "),
            ("retry: {first: 10m}", "retry.max: expected at least recovery.retry.first (10m), got 5m"),
            ("retry: {max: 10ms}", "retry.max: expected at least recovery.retry.first (1s), got 10ms"),
            ("snapshot: {max_size: 3GiB}", "expected at least recovery.snapshot.max_size (3GiB), got 2GiB"),
            ("snapshot: {max_size: 2MiB, max_total: 1MiB}", "expected at least recovery.snapshot.max_size (2MiB), "),
            ("snapshot: {required: 1}", "recovery.snapshot.required: expected true or false, got 1"),
        ],
    )
    def test_in_recovery(self, tmp_path: Path, setting: str, told: str) -> None:
        assert told in one_mistake(tmp_path, f"recovery: {{{setting}}}")

    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            ("json: on", 'log.json: expected true or false, got "on"'),
            ("level: LOUD", "log.level: expected TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR or CRITICAL, "),
            ("rotation: 5m", "log.rotation: expected a size from 1 KB such as 10 MB, an interval such as 1 week, "),
            ("retention: 0", "log.retention: expected a number of files from 1 to 10000, a time such as 10 days, "),
            ("compression: rar", "log.compression: expected gz, bz2, xz, lzma, tar, "),
            ('file: "x-{time}.log"', "log.file: expected a file, without braces in its path"),
            ("file: logs/", "log.file: expected a file, "),
            ("file: data/watcher.log", "log.file: expected a file outside tree.root"),
        ],
    )
    def test_in_the_log(self, tmp_path: Path, setting: str, told: str) -> None:
        assert told in one_mistake(tmp_path, f"log: {{{setting}}}")

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ("5", "expected the directory that holds the sessions, got 5; put it in quotes"),
            ("''", "expected the directory that holds the sessions, got an empty text"),
            ("[x]", "expected the directory that holds the sessions, got a list"),
            ("~root/x", 'only ~/ is expanded, got "~root/x"; write ./~… for a file of that name'),
            ('"a\\0b"', "with a NUL character in it"),
            ('"\\ud800"', "which has no UTF-8 form"),
            ("x" * 5000, "got 5000 bytes; 4095 are possible"),
        ],
    )
    def test_in_the_root(self, tmp_path: Path, value: str, told: str) -> None:
        (line,) = mistakes(tmp_path, f"tree: {{root: {value}}}")
        assert line.startswith("settings.yaml: tree.root: ")
        assert told in line

    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            (
                "databases: outbound.db",
                'expected a list, such as ["outbound.db"], got "outbound.db"; write ["outbound.db"]',
            ),
            ("databases: []", "tree.databases: expected at least one shell pattern"),
            ("databases: [a.db, '']", "tree.databases[1]: expected a shell pattern on a file's name, such as "),
            ("databases: [a/b.db]", 'without a directory, got "a/b.db"'),
            ('databases: ["{in,out}bound.db"]', "without braces (write a * for them, or two patterns)"),
            ("databases: [1]", "got 1; put it in quotes"),
            ("exclude: node_modules", 'write ["node_modules"]'),
            ("exclude: [a/b]", "tree.exclude[0]: expected the name of a directory, not a path"),
            ('exclude: ["*.tmp"]', "expected the whole name of a directory, not a pattern"),
            ("host_root: data", 'tree.host_root: expected an absolute path, got "data"'),
            ("layout: /a", "tree.layout: expected directories below tree.root"),
            ("layout: {session}", 'a mapping; a text that begins with a brace needs quotes: "{session}"'),
        ],
    )
    def test_in_the_tree(self, tmp_path: Path, setting: str, told: str) -> None:
        (line,) = mistakes(tmp_path, f"tree: {{root: x, {setting}}}")
        assert told in line

    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            ("locks: of", 'owner.locks: expected auto, trust or off, got "of"'),
            ("locks: false", "owner.locks: expected auto, trust or off, got false"),
            ("pid_file: ../x.pid", "expected a file beside the database, such as .writer.pid, or an absolute path"),
            ("pid_file: run/", 'without .. in it, got "run/"'),
            ("pid_file: .", 'without .. in it, got "."'),
            ("pid_file: ''", "got an empty text"),
            ("heartbeat: {max_age: 0}", "owner.heartbeat.max_age: expected a duration from 100ms to 1d"),
            ("command: {argv: []}", "owner.command.argv: expected a list of a program and its arguments"),
            ("command: {argv: ./alive.sh x}", 'got "./alive.sh x"'),
            ("command: {argv: ['', x]}", "got an empty text for the program"),
            ("command: {argv: [a, 5]}", "got 5; put it in quotes"),
            ('command: {argv: ["{session}"]}', "expected a program that has no field in its name"),
            ("container: {labels: {a: 0123}}", "labels.a: expected a text in quotes, got 123; put it in quotes"),
            ("container: {labels: {a: }}", "owner.container.labels.a: expected a text in quotes, got nothing"),
            ("container: {labels: [a]}", "owner.container.labels: expected a mapping, such as {nanoclaw-session: "),
            ('container: {labels: {"": x}}', 'owner.container.labels."": in its key: expected a printable line'),
            ("container: {mounts: false}", "owner.container: expected labels, a name, or mounts: true; nothing here"),
            ("container: {engine: dokcer}", "owner.container.engine: expected docker, podman, unix:///path/to/socket"),
            ("container: {timeout: 0}", "owner.container.timeout: expected a duration from 10ms to 1m"),
        ],
    )
    def test_in_the_owner(self, tmp_path: Path, setting: str, told: str) -> None:
        assert told in one_mistake(tmp_path, f"owner: {{{setting}}}")

    @pytest.mark.parametrize(
        ("address", "told"),
        [
            ("localhost:9464", 'got "localhost:9464"; write 127.0.0.1 for localhost'),
            ("9464", "metrics.listen: expected an address and a port, such as 127.0.0.1:9464 or [::1]:9464, got 9464"),
            ("':9464'", 'got ":9464"'),
            ("'::1:9464'", 'got "::1:9464"'),
            ("'[127.0.0.1]:9464'", 'got "[127.0.0.1]:9464"'),
            ("127.0.0.1", 'got "127.0.0.1"'),
            ("127.0.0.1:x", 'got "127.0.0.1:x"'),
            ("127.0.0.1:0", "with a port from 1 to 65535"),
            ("127.0.0.1:65536", "with a port from 1 to 65535"),
            (f"127.0.0.1:1{'0' * 4000}", "with a port from 1 to 65535"),
        ],
    )
    def test_in_the_address_of_the_metrics(self, tmp_path: Path, address: str, told: str) -> None:
        assert told in one_mistake(tmp_path, f"metrics: {{listen: {address}}}")

    @pytest.mark.parametrize(
        ("hosts", "told"),
        [
            ("watcher.lan", 'expected a list, such as [watcher.lan], got "watcher.lan"; write ["watcher.lan"]'),
            (
                "['http://watcher.lan']",
                "expected the name of a host, such as watcher.lan, without a scheme, port or path",
            ),
            ("['watcher.lan:9464']", "without a scheme, port or path"),
            ("['*']", 'expected the name of a host, such as watcher.lan, got "*"'),
            ("[bücher.de]", "write it as DNS has it (xn--…)"),
            ("[a..b]", 'got "a..b"'),
        ],
    )
    def test_in_the_names_of_the_page(self, tmp_path: Path, hosts: str, told: str) -> None:
        assert told in one_mistake(tmp_path, f"metrics: {{hosts: {hosts}}}")

    @pytest.mark.parametrize(
        ("setting", "told"),
        [
            ("held: ./page.sh", "hooks.held: expected a list of a program and its arguments, such as [./page.sh,"),
            ("recoverd: [x]", "did you mean hooks.recovered?"),
            ("failed: [./page.sh, '{sesion}']", "there is no field {sesion}"),
            ("timeout: 11m", "hooks.timeout: expected a duration from 10ms to 10m"),
        ],
    )
    def test_in_the_hooks(self, tmp_path: Path, setting: str, told: str) -> None:
        assert told in one_mistake(tmp_path, f"hooks: {{{setting}}}")

    @pytest.mark.parametrize(
        ("template", "told"),
        [
            (".{sesion}.pid", "there is no field {sesion}; tree.layout names {agent_group}, {session}"),
            ("{}", "{} is no field; a field is a name alone in braces, such as {session}"),
            ("{session.x}", "{session.x} is no field"),
            ("{session[0]}", "{session[0]} is no field"),
            ("{session!r:>9}", "{session!r:>9} is no field"),
            ("{0}", "{0} is no field"),
            ("x{session", "a { that belongs to nothing; write {{ for a brace that is meant"),
            ("session}", "a } that belongs to nothing; write }} for a brace that is meant"),
        ],
    )
    @pytest.mark.parametrize(
        ("path", "setting"),
        [
            ("owner.pid_file", 'pid_file: "%"'),
            ("owner.heartbeat.file", 'heartbeat: {file: "%"}'),
            ("owner.command.argv", 'command: {argv: [alive, "%"]}'),
            ("owner.container.labels.a", 'container: {labels: {a: "%"}}'),
            ("owner.container.name", 'container: {name: "%"}'),
            ("owner.container.ignore[0]", 'container: {ignore: ["%"]}'),
        ],
    )
    def test_in_a_field(self, tmp_path: Path, path: str, setting: str, template: str, told: str) -> None:
        line = one_mistake(tmp_path, f"owner: {{{setting.replace('%', template)}}}")
        assert line.startswith(f"{path}: {told}")

    def test_in_a_field_without_a_layout(self, tmp_path: Path) -> None:
        (line,) = mistakes(tmp_path, 'tree: {root: x}\nowner: {pid_file: "{session}"}')
        assert line == "settings.yaml: owner.pid_file: there is no field {session}; tree.layout names none"

    @pytest.mark.parametrize("value", ['"two\\nlines"', "x" * 65, "2026", "''", '" x"', '"\\e[31m"', "[x]", "null"])
    def test_in_the_instance(self, tmp_path: Path, value: str) -> None:
        line = one_mistake(tmp_path, f"instance: {value}")
        assert line.startswith("instance: expected a printable line of at most 64 characters")


def test_the_default_size_of_a_snapshot_gives_way_to_the_size_of_all(tmp_path: Path) -> None:
    settings = load(tmp_path, "tree: {root: x}\nrecovery: {snapshot: {max_total: 1MiB}}")
    assert settings.recovery.snapshot is not None
    assert settings.recovery.snapshot.max_total == 2**20


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    lines = mistakes(
        tmp_path,
        """
        tree:
          rot: ./data
          layout: "{group}/{session}"
        state_dir: ./state
        owner: {locks: of, pid_file: "{sesion}"}
        recovery: {workers: many, workers: 4, retry: {first: 10m}}
        """,
    )

    assert lines == [
        "settings.yaml: recovery.workers: written twice, in line 7 and in line 7",
        "settings.yaml: tree.root: this key is required",
        "settings.yaml: tree.rot: unknown key; did you mean tree.root?",
        'settings.yaml: owner.locks: expected auto, trust or off, got "of"',
        "settings.yaml: owner.pid_file: there is no field {sesion}; tree.layout names {group}, {session}",
        'settings.yaml: recovery.workers: expected a whole number from 1 to 64, got "many"',
        "settings.yaml: recovery.retry.max: expected at least recovery.retry.first (10m), got 5m",
    ]


def test_a_mistake_in_the_tree_does_not_hide_a_state_directory_inside_it(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, "tree: {root: ./data, databases: []}\nstate_dir: ./data/state")

    assert [line.split(": ")[1] for line in lines] == ["state_dir", "tree.databases"]


def test_an_unsound_layout_does_not_raise_doubts_about_its_fields(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, 'tree: {root: x, layout: "{a}{b}"}\nowner: {pid_file: "{a}"}')

    assert [line.split(": ")[1] for line in lines] == ["tree.layout"]


def test_problems_can_be_read_by_a_program(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as told:
        load(tmp_path, "tree: {rot: x}", {"JOURNAL_WATCHER__LOG__LEVEL": "x"})

    assert told.value.file == f"{tmp_path}/settings.yaml"
    assert Problem("tree.root", "this key is required") in told.value.problems
    assert [(each.path, each.variable) for each in told.value.problems if each.variable] == [
        ("log.level", "JOURNAL_WATCHER__LOG__LEVEL")
    ]


def test_a_thousand_mistakes_are_not_a_thousand_lines(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, "\n".join(f"key{number}: 1" for number in range(1000)))

    assert len(lines) == 41
    assert lines[-1] == "settings.yaml: and 961 more"


def test_no_value_and_no_key_is_echoed_at_length_or_with_control_characters(tmp_path: Path) -> None:
    long = "\\e[31m" + "x" * 3000
    lines = mistakes(
        tmp_path,
        f"""
        ? "{long}"
        : 1
        tree: {{root: x, layout: "/{long}", ? "{long}" : 1}}
        recovery: {{verify: "{long}", workers: "{long}"}}
        owner:
          pid_file: "{{{long}}}"
          container: {{engine: "{long}", labels: {{? "{long}" : 1}}}}
        """,
    )

    assert len(lines) == 9
    assert all(len(line) < 400 and line.isprintable() for line in lines)


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings = load(tmp_path, "tree: {root: x}")

    with pytest.raises(ValidationError):
        settings.instance = "another"
    assert load(tmp_path, "tree: {root: x}") == settings


def test_models_can_be_made_without_a_file() -> None:
    tree = TreeSettings(root=Path("/srv/tree"), layout="{session}", databases=("outbound.db",))
    settings = Settings(file=Path("/etc/watcher/settings.yaml"), tree=tree)

    assert (settings.instance, settings.state_dir) == ("watcher", Path("/etc/watcher/.journal-watcher"))
    assert settings.tree is tree


@pytest.mark.parametrize(
    "engine", ["docker", "podman", "unix:///run/x.sock", "tcp://h:2375", "tcp://[::1]:1", "ssh://u@h"]
)
def test_an_engine_may_be_named_so(engine: str) -> None:
    assert ContainerSettings(engine=engine).engine == engine


@pytest.mark.parametrize(
    "engine",
    ["", "containerd", "unix://", "unix:///", "unix://run/x.sock", "tcp://host", "tcp://:99", "tcp://h:0", "tcp://h:99999",
     "tcp://[::1", "ssh://", "ssh://h/path", "http://h:80", "tcp://h:1?x=1", "unix:///a b", "unix:///a\nb", "//h:1"],
)  # fmt: skip
def test_an_engine_may_not_be_named_so(engine: str) -> None:
    with pytest.raises(ValidationError, match="expected docker, podman, unix:///path/to/socket"):
        ContainerSettings(engine=engine)


def test_a_password_in_an_address_is_not_echoed(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "tree: {root: x}\nowner: {container: {engine: tcp://me:secret@h:1}}")

    assert "a password cannot be part of the address" in line
    assert "secret" not in line


class TestPaths:
    """Where relative paths, `~/` and `..` lead."""

    def test_relative_paths_start_from_the_settings_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / "{odd}").mkdir()
        monkeypatch.chdir(elsewhere)

        settings = load(
            tmp_path / "{odd}", "tree: {root: ../data}\nstate_dir: s\nowner: {command: {argv: [./alive.sh, ./x]}}"
        )

        assert settings.file == tmp_path / "{odd}" / "settings.yaml"
        assert settings.tree.root == tmp_path / "data"
        assert settings.state_dir == tmp_path / "{odd}" / "s"
        assert settings.owner.command is not None
        assert settings.owner.command.argv == (f"{tmp_path}/{{{{odd}}}}/alive.sh", "./x")

    def test_a_home_directory_is_expanded(self, tmp_path: Path) -> None:
        text = "tree: {root: ~/tree}\nowner: {pid_file: ~/x.pid, command: {argv: [~/alive, ~/x]}}\nstate_dir: ~/state"
        settings = load(tmp_path, text, {"HOME": "/home/{me}/"})

        assert settings.tree.root == Path("/home/{me}/tree")
        assert settings.state_dir == Path("/home/{me}/state")
        assert settings.owner.pid_file == "/home/{{me}}/x.pid"
        assert settings.owner.command is not None
        assert settings.owner.command.argv == ("/home/{{me}}/alive", "~/x")

    @pytest.mark.parametrize(("written", "meant"), [("~", "/"), ("~/", "/"), ("~/x", "/x")])
    def test_the_home_directory_may_be_the_root_directory(self, written: str, meant: str) -> None:
        assert Surroundings(Path("/etc"), home="/").path(written) == Path(meant)

    def test_without_that_variable_the_account_says_where_home_is(self, tmp_path: Path) -> None:
        assert load(tmp_path, "tree: {root: ~/x}").tree.root.is_absolute()

    def test_a_bare_program_is_left_for_the_search_path_and_a_path_may_have_fields(self, tmp_path: Path) -> None:
        assert load(tmp_path, "tree: {root: x}\nowner: {command: {argv: [alive]}}").owner.command is not None
        settings = load(tmp_path, LAYOUT + 'owner: {command: {argv: ["/probes/{agent_group}"]}}')
        assert settings.owner.command is not None
        assert settings.owner.command.argv == ("/probes/{agent_group}",)

    def test_two_dots_lead_up_from_where_a_symlink_points(self, tmp_path: Path) -> None:
        (tmp_path / "real/inner").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "real/inner")

        assert load(tmp_path, "tree: {root: link/../data}").tree.root == tmp_path / "real/data"

    def test_two_slashes_are_one(self, tmp_path: Path) -> None:
        assert str(load(tmp_path, "tree: {root: //srv//tree/}").tree.root) == "/srv/tree"

    def test_an_odd_directory_makes_a_printable_instance(self, tmp_path: Path) -> None:
        odd = tmp_path / os.fsdecode(b"a\nb\xff")
        odd.mkdir()

        settings = load(odd, "tree: {root: x}")

        assert settings.instance == "a\\nb\\xff"
        assert settings.tree.root == odd / "x"


class TestStateDirectoryAndTree:
    """Neither may lie in the other: containers write the tree."""

    @pytest.mark.parametrize(
        ("root", "state_dir"),
        [
            ("tree", "tree"),
            ("tree", "tree/a/b"),
            ("a/b/tree", "a"),
            ("tree", "other/../tree/x"),
            (".", "x"),
            ("/", "x"),
        ],
    )
    @pytest.mark.parametrize("exists", [True, False], ids=["existing", "missing"])
    def test_one_inside_the_other_is_refused(self, tmp_path: Path, root: str, state_dir: str, *, exists: bool) -> None:
        if exists:
            (tmp_path / root).mkdir(parents=True, exist_ok=True)
            (tmp_path / state_dir).mkdir(parents=True, exist_ok=True)

        (line,) = mistakes(tmp_path, f"tree: {{root: {root}}}\nstate_dir: {state_dir}")

        assert line.startswith("settings.yaml: state_dir: expected a directory ")

    @pytest.mark.parametrize(
        ("root", "state_dir"), [("link", "real/state"), ("real", "link/state"), ("real/a", "link")]
    )
    def test_a_symlink_hides_nothing(self, tmp_path: Path, root: str, state_dir: str) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")

        (line,) = mistakes(tmp_path, f"tree: {{root: {root}}}\nstate_dir: {state_dir}")

        assert line.startswith("settings.yaml: state_dir: expected a directory ")

    def test_a_dangling_symlink_hides_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("not-yet")

        (line,) = mistakes(tmp_path, "tree: {root: link}\nstate_dir: not-yet/state")

        assert line.startswith("settings.yaml: state_dir: expected a directory outside tree.root")

    @pytest.mark.skipif(os.geteuid() != 0, reason="a bind mount wants root")
    def test_a_second_name_of_the_same_directory_hides_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "again").mkdir()
        subprocess.run(["mount", "--bind", tmp_path / "tree", tmp_path / "again"], check=True)
        try:
            (line,) = mistakes(tmp_path, "tree: {root: again}\nstate_dir: tree/state")
        finally:
            subprocess.run(["umount", "--lazy", tmp_path / "again"], check=True)

        assert line.startswith("settings.yaml: state_dir: expected a directory outside tree.root")

    def test_the_default_is_checked_too(self, tmp_path: Path) -> None:
        (line,) = mistakes(tmp_path, "tree: {root: .}")

        assert line.startswith("settings.yaml: state_dir: ")

    def test_neighbours_are_no_matter(self, tmp_path: Path) -> None:
        settings = load(tmp_path, "tree: {root: data}\nstate_dir: data-state")

        assert settings.state_dir == tmp_path / "data-state"


class TestWhichFile:
    """The file that is read, and those that are not."""

    def test_the_variable_names_it(self, tmp_path: Path) -> None:
        (tmp_path / "x.yaml").write_text("tree: {root: x}", encoding="utf-8")

        settings = load_settings(environ={"JOURNAL_WATCHER_CONFIG": str(tmp_path / "x.yaml")})

        assert settings.file == tmp_path / "x.yaml"

    @pytest.mark.parametrize("environ", [{}, {"JOURNAL_WATCHER_CONFIG": ""}], ids=["unset", "empty"])
    def test_without_it_settings_yaml_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
    ) -> None:
        (tmp_path / "settings.yaml").write_text("tree: {root: x}", encoding="utf-8")
        monkeypatch.chdir(tmp_path)

        assert load_settings(environ=environ).file == tmp_path / "settings.yaml"

    def test_a_relative_name_stays_as_it_was_given_in_messages(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "settings.yaml").write_text("", encoding="utf-8")
        monkeypatch.chdir(tmp_path)

        with pytest.raises(SettingsError) as told:
            load_settings(environ={})
        assert str(told.value) == "settings.yaml: tree.root: this key is required"

    def test_a_missing_file_is_told_with_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"there is no such file; .* begin with settings\.example\.yaml"):
            load_settings(tmp_path / "settings.yaml", {})

    def test_a_directory_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="expected a plain file, got a directory"):
            load_settings(tmp_path, {})

    @pytest.mark.timeout(10)
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")

        with pytest.raises(SettingsError, match="expected a plain file, got a pipe"):
            load_settings(tmp_path / "pipe", {})

    @pytest.mark.timeout(10)
    def test_a_device_is_not_read(self) -> None:
        with pytest.raises(SettingsError, match="expected a plain file, got a device"):
            load_settings("/dev/zero", {})

    def test_a_socket_is_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")

            with pytest.raises(SettingsError, match="expected a plain file, got a socket"):
                load_settings("socket", {})

    @pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 300, "settings.yaml/x"])
    def test_a_name_that_no_file_can_have(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        (tmp_path / "settings.yaml").write_text("", encoding="utf-8")
        monkeypatch.chdir(tmp_path)

        with pytest.raises(SettingsError):
            load_settings(name, {})

    def test_gigabytes_are_refused_unread(self, tmp_path: Path) -> None:
        with (tmp_path / "huge.yaml").open("wb") as file:
            file.truncate(4 * 2**30)

        with pytest.raises(SettingsError, match="expected a file of at most 1 MiB, got 4294967296 bytes"):
            load_settings(tmp_path / "huge.yaml", {})

    def test_bytes_that_are_no_utf8_are_told_with_their_place(self, tmp_path: Path) -> None:
        (tmp_path / "settings.yaml").write_bytes(b"tree:\n  root: caf\xe9\n")

        with pytest.raises(SettingsError, match="expected UTF-8, got the byte 0xe9 at position 17, in line 2"):
            load_settings(tmp_path / "settings.yaml", {})
