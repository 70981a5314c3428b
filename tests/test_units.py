"""The units: read by the programs and parsers that will read them."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.running import Runner
from tests.test_settings import load
from watcher.owner.testimony import Answer, Evidence, judge
from watcher.records.metrics import Metrics
from watcher.records.tally import Tally
from watcher.settings import Settings, load_settings
from watcher.units import Kind, UnitError, unit_of
from watcher.units.containers import compose, kubernetes
from watcher.units.facts import Facts, facts_of
from watcher.units.launchd import launchd
from watcher.units.rights import closed_to
from watcher.units.systemd import systemd

NAMES = [
    "plain",
    "with space",
    "it's",
    'a"b',
    "per%cent %n",
    "dollar$HOME ${x}",
    "back\\slash",
    "ünïcode 🙂",
    "@{tree}",
    "-x",
]
NOBODY = 65534

with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def installed(directory: Path, text: str = "", environ: Mapping[str, str] | None = None) -> Facts:
    (directory / "data").mkdir(parents=True)
    return facts_of(load(directory, f"tree: {{root: ./data}}\n{text}", environ), environ or {})


def values_of(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)


@pytest.fixture(params=NAMES)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Facts:
    """An installation in a directory with such a name."""
    return installed(tmp_path / request.param, "log: {file: '../log 100%/watcher.log'}")


class TestSystemd:
    @with_systemd
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "owner: {container: {engine: unix:///run/docker.sock}}",
            "owner: {container: {engine: ssh://me@host}}\nmetrics: {listen: 127.0.0.1:9464}",
            "hooks: {held: [/bin/true]}\nlog: {file: ./log/x.log}\nrecovery: {verify: quick}",
            "metrics: {listen: 127.0.0.1:80}",
        ],
    )
    @pytest.mark.parametrize("uid", [0, 1234])
    def test_systemd_calls_it_clean_and_well_shut(self, tmp_path: Path, text: str, uid: int) -> None:
        unit = tmp_path / "jw.service"
        unit.write_text(systemd(replace(installed(tmp_path / "x", text), uid=uid, gid=uid)))
        verified = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
        )
        assert (verified.stdout + verified.stderr, verified.returncode) == ("", 0)
        secured = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        level = re.search(r"Overall exposure level for jw.service: ([\d.]+) (OK|SAFE|PERFECT)", secured.stdout)
        assert level is not None, secured.stdout[-300:]
        assert float(level[1]) < 3.5

    @with_systemd
    def test_systemd_reads_every_path_as_it_is(self, odd: Facts) -> None:
        """By `systemd --test`, which loads units and dumps them. It runs as nobody, who may not read our directory."""
        if os.geteuid() != 0:
            pytest.skip("wants root, to become nobody")
        odd = replace(odd, environment={"JOURNAL_WATCHER__INSTANCE": f"{odd.instance}\n x"}, uid=1234, gid=1234)
        units = Path("/run") / f"jw-units-{os.getpid()}"
        units.mkdir()
        try:
            (units / "jw.service").write_text(systemd(odd), "utf-8")
            dumped = subprocess.run(
                ["/lib/systemd/systemd", "--test", "--system", "--unit=jw.service"],
                user=NOBODY,
                group=NOBODY,
                env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
                capture_output=True,
                timeout=60,
                check=False,
            )
        finally:
            shutil.rmtree(units)
        mine = (dumped.stdout + dumped.stderr).decode().partition("-> Unit jw.service:")[2].partition("-> Unit ")[0]
        assert f"ReadWritePaths: -{odd.state_dir} -{odd.log_dir} -{odd.tree}\n" in mine
        assert f"Environment: JOURNAL_WATCHER__INSTANCE={odd.instance}\n x" in mine.replace("\\n", "\n")
        (started,) = re.findall(r"ExecStart:\n\s*Command Line: (.*)", mine)
        assert _unescaped(started).endswith(f"run -c {odd.settings_file}")
        assert re.search(r"Description: journal-watcher \((.*)\) recovers", mine)[1] == odd.instance  # type: ignore[index]

    @pytest.mark.parametrize("name", ["new\nline", "tab\tx"])
    def test_a_path_that_no_list_of_paths_can_hold_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UnitError, match="has a control character"):
            systemd(installed(tmp_path / name))

    def test_the_trees_owner_runs_it_by_number_where_nobody_is_called_so(self, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("wants root, to give a directory away")
        (tmp_path / "x" / "data").mkdir(parents=True)
        os.chown(tmp_path / "x" / "data", 54321, 54322)
        facts = facts_of(load(tmp_path / "x", "tree: {root: ./data}"), {})
        unit = systemd(facts)
        assert values_of(unit, "User") == ["54321"]
        assert values_of(unit, "Group") == ["54322"]
        assert values_of(unit, "CapabilityBoundingSet") == [""]
        assert "setpriv --reuid=54321 --regid=54322 --clear-groups -- mkdir" in values_of(unit, "ExecStartPre")[0]

    @pytest.mark.parametrize("uid", [0, 1234])
    def test_a_port_that_wants_a_capability_has_it(self, tmp_path: Path, uid: int) -> None:
        """By a process with just those capabilities that the unit gives."""
        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            pytest.skip("wants root and setpriv, to become another user")
        facts = replace(installed(tmp_path / "x", "metrics: {listen: 127.0.0.1:987}"), uid=uid, gid=uid)
        unit = systemd(facts)
        bounding = ["-all", *(f"+{each.lower()[4:]}" for each in values_of(unit, "CapabilityBoundingSet")[0].split())]
        ambient = [f"+{each.lower()[4:]}" for each in " ".join(values_of(unit, "AmbientCapabilities")).split()]
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
        become += [f"--bounding-set={','.join(bounding)}", f"--inh-caps={','.join(['-all', *ambient])}"]
        become += [f"--ambient-caps={','.join(['-all', *ambient])}", "--"]
        listen = "import socket, sys; socket.create_server((sys.argv[1], int(sys.argv[2]))).close()"
        assert facts.listens_on is not None
        tried = subprocess.run(
            [*become, f"{sys.base_prefix}/bin/python3", "-c", listen, *facts.listens_on],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (tried.returncode, tried.stderr) == (0, "")
        assert "CAP_NET_BIND_SERVICE" not in systemd(replace(facts, listens_on=("127.0.0.1", "1024")))

    def test_a_root_that_is_not_there_keeps_nothing_from_starting(self, tmp_path: Path) -> None:
        facts = facts_of(load(tmp_path, "tree: {root: /srv/none/such}\nstate_dir: /var/lib/x"), {})
        assert values_of(systemd(facts), "ReadWritePaths") == ["-/var/lib/x -/srv/none/such"]
        assert facts.uid == 0

    def test_nothing_that_it_needs_is_hidden_from_it(self, tmp_path: Path) -> None:
        facts = installed(tmp_path / "x")
        elsewhere = replace(facts, needed=(Path("/srv/x"), Path("/usr/bin/python3")))
        assert values_of(systemd(elsewhere), "ProtectHome") == ["yes"]
        assert values_of(systemd(elsewhere), "PrivateTmp") == ["yes"]
        at_home = replace(facts, needed=(Path("/home/me/x"), Path("/tmp/x")))
        assert values_of(systemd(at_home), "ProtectHome") == ["read-only"]
        assert values_of(systemd(at_home), "PrivateTmp") == []

    def test_a_program_of_the_users_is_not_shut_in_more_than_it_can_bear(self, tmp_path: Path) -> None:
        facts = replace(installed(tmp_path / "x", "hooks: {held: [./page.sh]}"), uid=1234)
        unit = systemd(facts)
        assert "MemoryDenyWriteExecute" not in re.sub("^#.*$", "", unit, flags=re.MULTILINE)
        assert values_of(unit, "PrivateNetwork") == []
        assert values_of(unit, "SystemCallFilter") == ["@system-service"]

    def test_the_watchdog_waits_longer_than_any_look_may_last(self, tmp_path: Path) -> None:
        facts = installed(tmp_path / "x", "recovery: {busy_timeout: 2m}")
        assert values_of(systemd(facts), "WatchdogSec") == ["375"]
        assert installed(tmp_path / "y").watchdog_s == 30

    def test_overrides_of_the_settings_are_part_of_the_installation(self, tmp_path: Path) -> None:
        environ = {"JOURNAL_WATCHER__WATCH__HOLD_WARNING": "5m", "DOCKER_HOST": "unix:///x", "PATH": "/bin"}
        unit = systemd(installed(tmp_path / "x", environ=environ))
        assert values_of(unit, "Environment") == ["JOURNAL_WATCHER__WATCH__HOLD_WARNING=5m"]

    def test_the_engines_group_is_named_where_the_owner_has_no_right_of_its_own(self, tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("wants root, to give files away")
        (tmp_path / "x" / "data").mkdir(parents=True)
        os.chown(tmp_path / "x" / "data", 54321, 54322)
        socket = tmp_path / "engine.sock"
        socket.touch()
        os.chown(socket, 0, 777)
        socket.chmod(0o660)
        text = f"tree: {{root: ./data}}\nowner: {{container: {{engine: 'unix://{socket}'}}}}"
        settings = load(tmp_path / "x", text)
        assert values_of(systemd(facts_of(settings, {})), "SupplementaryGroups") == ["777"]
        socket.chmod(0o666)
        assert values_of(systemd(facts_of(settings, {})), "SupplementaryGroups") == []


def _unescaped(command: str) -> str:
    """A command line as systemd dumps it: words in double quotes with backslashes, where they need any."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', command)
    return " ".join(re.sub(r"\\(.)", r"\1", quoted) if quoted else plain for quoted, plain in words)


def _compose_command() -> list[str] | None:
    """Docker Compose 2, as docker's plugin or by itself."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            told = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and told.stdout.lstrip("v").startswith(("2.", "5.")):
                return command
    return None


class TestContainers:
    def test_compose_has_each_path_at_its_own_place(self, odd: Facts) -> None:
        service = _compose(odd)
        mounts = {each["target"]: each for each in service["volumes"]}
        assert set(mounts) == {str(odd.settings_file), str(odd.tree), str(odd.state_dir), str(odd.log_dir)}
        assert all(each["source"] == target for target, each in mounts.items())
        assert mounts[str(odd.settings_file)]["read_only"] is True
        assert "read_only" not in mounts[str(odd.tree)]
        assert service["command"] == ["run", "-c", str(odd.settings_file)]
        assert service["pid"] == "host"

    def test_compose_asks_livez_where_it_is_served_and_status_elsewhere(self, tmp_path: Path) -> None:
        silent = _compose(installed(tmp_path / "x"))
        assert silent["network_mode"] == "none"
        assert silent["healthcheck"]["test"][1:3] == ["journal-watcher", "status"]
        serving = _compose(installed(tmp_path / "y", "metrics: {listen: 127.0.0.1:9999}"))
        assert serving["ports"] == ["127.0.0.1:9999:9999"]
        assert "127.0.0.1:9999/livez" in serving["healthcheck"]["test"][-1]
        assert serving["environment"] == {"JOURNAL_WATCHER__METRICS__LISTEN": "0.0.0.0:9999"}

    def test_a_container_without_capabilities_listens_on_no_low_port(self, tmp_path: Path) -> None:
        facts = installed(tmp_path / "x", "metrics: {listen: 127.0.0.1:80}")
        service = _compose(facts)
        assert service["ports"] == ["127.0.0.1:80:9464"]
        assert service["environment"] == {"JOURNAL_WATCHER__METRICS__LISTEN": "0.0.0.0:9464"}
        assert "127.0.0.1:9464/livez" in service["healthcheck"]["test"][-1]

    def test_a_pod_may_listen_on_a_low_port_of_its_own(self, tmp_path: Path) -> None:
        *_, daemons = yaml.safe_load_all(kubernetes(installed(tmp_path / "x", "metrics: {listen: 127.0.0.1:80}")))
        (allowed,) = daemons["spec"]["template"]["spec"]["securityContext"]["sysctls"]
        assert allowed == {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
        assert _container(daemons)["ports"][0]["containerPort"] == 80
        *_, usual = yaml.safe_load_all(kubernetes(installed(tmp_path / "y", "metrics: {listen: 127.0.0.1:9464}")))
        assert "sysctls" not in usual["spec"]["template"]["spec"]["securityContext"]

    def test_compose_has_the_engines_socket_and_its_group(self, tmp_path: Path) -> None:
        facts = replace(installed(tmp_path / "x"), engine_socket=Path("/run/docker.sock"), engine_gid=105)
        service = _compose(facts)
        assert {"type": "bind", "source": "/run/docker.sock", "target": "/run/docker.sock"} in service["volumes"]
        assert service["group_add"] == ["105"]

    def test_compose_itself_reads_it_as_it_is_meant(self, tmp_path: Path) -> None:
        compose_command = _compose_command()
        if compose_command is None:
            pytest.skip("Docker Compose is not installed")
        facts = installed(tmp_path / "with $HOME and 'quotes'", "metrics: {listen: 127.0.0.1:9464}")
        (tmp_path / "compose.yaml").write_text(compose(facts), "utf-8")
        asked = [*compose_command, "-f", str(tmp_path / "compose.yaml"), "config", "--format", "json"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        service = json.loads(done.stdout.replace("$$", "$"))["services"]["journal-watcher"]
        places = {each["source"] for each in service["volumes"]}
        assert places == {str(facts.settings_file), str(facts.tree), str(facts.state_dir)}
        assert {each["target"] for each in service["volumes"]} == places
        assert service["command"] == ["run", "-c", str(facts.settings_file)]
        assert (service["pid"], service["cgroup"]) == ("host", "host")

    def test_the_daemon_set_is_whole(self, odd: Facts) -> None:
        namespace, config, daemons = yaml.safe_load_all(kubernetes(odd))
        assert namespace["metadata"]["name"] == config["metadata"]["namespace"] == daemons["metadata"]["namespace"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", daemons["metadata"]["name"])
        assert config["data"]["settings.yaml"] == odd.settings_text
        pod = daemons["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["hostPID"] is True
        assert daemons["spec"]["selector"]["matchLabels"] == daemons["spec"]["template"]["metadata"]["labels"]
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
        assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
        hosts = {each["name"]: each.get("hostPath", {}).get("path") for each in pod["volumes"]}
        places = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert set(hosts) == set(places)
        for name in ("tree", "state", "log"):
            assert hosts[name] == places[name]
        assert places["tree"] == str(odd.tree)
        assert pod["initContainers"][0]["command"][-2:] == [str(odd.state_dir), str(odd.log_dir)]

    @pytest.mark.parametrize(
        "text", ["a: 1", "# no end", "a: 'tab\there'  \n\n", "\ufeffa: 1\n", "a: 1\r\nb: 2\r\n", ""]
    )
    def test_any_settings_file_is_carried_whole(self, tmp_path: Path, text: str) -> None:
        facts = replace(installed(tmp_path / "x"), settings_text=text)
        _, config, _ = yaml.safe_load_all(kubernetes(facts))
        assert config["data"]["settings.yaml"] == text

    def test_kubernetes_does_without_an_engine_that_kubelets_have_not(self, tmp_path: Path) -> None:
        facts = installed(tmp_path / "x", "owner: {container: {engine: unix:///run/docker.sock}}")
        *_, daemons = yaml.safe_load_all(kubernetes(facts))
        environment = {each["name"]: each["value"] for each in _container(daemons)["env"]}
        settings = load_settings(facts.settings_file, environment)
        assert settings.owner.container is None
        assert settings.metrics.listen == "0.0.0.0:9464"
        assert {"name": "JOURNAL_WATCHER__OWNER__CONTAINER", "value": "null"} not in _container(
            list(yaml.safe_load_all(kubernetes(installed(tmp_path / "y"))))[-1]
        )["env"]

    def test_a_path_that_kubernetes_cannot_mount_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnitError, match="colon"):
            kubernetes(installed(tmp_path / "a:b"))


def _compose(facts: Facts) -> dict[str, Any]:
    """The service, with what Compose makes of dollars."""

    def plain(value: Any) -> Any:
        match value:
            case str():
                assert re.sub(r"\$\$", "", value).count("$") == 0, value
                return value.replace("$$", "$")
            case dict():
                return {key: plain(each) for key, each in value.items()}
            case list():
                return [plain(each) for each in value]
        return value

    service: dict[str, Any] = plain(yaml.safe_load(compose(facts))["services"]["journal-watcher"])
    return service


def _container(daemons: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = daemons["spec"]["template"]["spec"]["containers"][0]
    return container


class TestLaunchd:
    def test_launchd_starts_it_as_the_trees_owner(self, odd: Facts) -> None:
        told = plistlib.loads(launchd(replace(odd, uid=1, environment={"A": "<&>"})).encode())
        assert told["ProgramArguments"] == list(odd.argv)
        assert told["UserName"] == "daemon"
        assert told["EnvironmentVariables"] == {"A": "<&>"}
        assert told["KeepAlive"] == {"SuccessfulExit": False}
        assert told["Umask"] == 0o027
        assert re.fullmatch(r"journal-watcher\.[a-z0-9-]+", told["Label"])

    def test_a_path_that_xml_cannot_hold_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnitError, match="property list"):
            launchd(installed(tmp_path / "a\x01b"))


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnitError, match="no UTF-8"):
        installed(tmp_path / "a\udcff")


def test_each_metric_that_the_dashboard_asks_for_is_one_of_ours(tmp_path: Path) -> None:
    from tests.test_metrics import READING

    dashboard = json.loads(unit_of(Kind.GRAFANA, _settings(tmp_path)))
    asked = set(re.findall(r"journal_watcher_\w+", json.dumps(dashboard)))
    tally = Tally()
    tally.recorded(_recovered())
    tally.judged(judge((Evidence("locks", Answer.EXITED, ""),)))
    told, _ = Metrics(lambda: replace(READING, engine_answers=True), tally).render("")
    ours = set(re.findall(r"^(journal_watcher_\w+)\{? ?", told.decode(), re.MULTILINE)) | {
        "journal_watcher_verdicts_total"
    }
    assert len(asked) > 10
    assert asked <= ours
    assert dashboard["title"] == f"journal-watcher {tmp_path.name}"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def _settings(directory: Path) -> Settings:
    return load(directory, "tree: {root: ./data}")


def _recovered() -> Any:
    from watcher.records.record import Outcome, Record

    return Record(database="/x", outcome=Outcome.RECOVERED, session={"session": "s"})


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are ours alone."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_user_who_could_not_even_start_it_is_told_of(open_directory: Path) -> None:
    shut = open_directory / "shut"
    shut.mkdir(mode=0o700)
    file, open_file = shut / "settings.yaml", open_directory / "settings.yaml"
    for each in (file, open_file):
        each.touch(mode=0o644)
    assert list(closed_to(54321, 54321, [open_file])) == []
    assert list(closed_to(54321, 54321, [open_file, file])) == [shut]
    assert list(closed_to(shut.stat().st_uid, 0, [file])) == []
    open_file.chmod(0o640)
    assert list(closed_to(54321, 54321, [open_file])) == [open_file]
    assert list(closed_to(54321, open_file.stat().st_gid, [open_file])) == []


def test_the_command_prints_it_and_nothing_else(runner: Runner) -> None:
    for kind in ("systemd", "launchd", "compose", "kubernetes", "grafana"):
        done = runner.command("unit", "--for", kind)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == unit_of(Kind(kind), load_settings(runner.settings))
    assert "[Service]" in runner.command("unit").stdout or sys.platform == "darwin"


def test_the_command_says_why_it_cannot_and_ends_with_2(runner: Runner) -> None:
    runner.configure(tree={"root": f"{runner.root}/a:b"})
    done = runner.command("unit", "--for", "kubernetes")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "has a colon in it" in done.stderr


def test_the_command_of_a_unit_is_this_installation(tmp_path: Path) -> None:
    *command, _, _, settings = installed(tmp_path / "x").argv
    assert settings == str(tmp_path / "x" / "settings.yaml")
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.startswith("journal-watcher ")
    assert stat.S_IXUSR & os.stat(command[0]).st_mode
    assert sys.prefix in command[0]
