"""The start of the service: it loads what it needs and no more, however the command is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import Runner
from tests.terminals import command

LOADED = """
import gc, sys
import watcher.cli, watcher.service

def loaded(_service):
    print(*sorted(sys.modules))
    print(gc.isenabled(), gc.get_freeze_count() > 10_000)
    sys.stdout.flush()
    return 0

watcher.service.Service.run = loaded
watcher.cli.main()
"""
"""The command up to where the service would begin: all the modules, then what becomes of garbage."""

ONLY_OTHERS_NEED = {
    "apsw.ext",
    "docker",
    "jinja2",
    "prometheus_client",
    "psutil",  # what Linux does not tell by itself
    "rich",
    "sqlite3",  # a second SQLite in one process: its locks would fall with the descriptors of the first
    "starlette",
    "typer",
    "uvicorn",
    "watcher.commands",
    "watcher.console",
    "watcher.page",
    "watcher.poller",
    "watcher.steps",
}

SPELLINGS = {
    "short": ["-c", "{}"],
    "long": ["--config", "{}"],
    "with an equals sign": ["--config={}"],
    "in one word": ["-c{}"],
    "twice": ["-c", "/nowhere/else.yaml", "-c", "{}"],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_run_is_run_however_it_is_written(tmp_path: Path, spelling: str) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("trees: {}\n")
    options = [each.format(settings) for each in SPELLINGS[spelling]]
    done = subprocess.run(command("run", *options), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"journal-watcher: {settings}: tree.root: this key is required",
        f"journal-watcher: {settings}: trees: unknown key; did you mean tree?",
    ]


@pytest.mark.parametrize("options", [["-c"], ["--confg", "settings.yaml"], ["-c", "settings.yaml", "more"]])
def test_an_option_that_cannot_be_is_refused(options: list[str]) -> None:
    done = subprocess.run(command("run", *options), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Error" in done.stderr


def test_the_usual_settings_are_those_of_the_directory(tmp_path: Path) -> None:
    done = subprocess.run(command("run"), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("journal-watcher: settings.yaml: there is no such file")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it needs psutil")
def test_the_service_loads_what_it_needs_and_no_more(runner: Runner) -> None:
    argv = [sys.executable, "-c", LOADED, "run", "-c", str(runner.settings)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules, garbage = done.stdout.splitlines()
    assert "apsw" in modules.split()
    assert not ONLY_OTHERS_NEED & set(modules.split())
    assert garbage == "True True"
