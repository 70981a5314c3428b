"""Completion, asked as the shells ask: by their own protocol, and by a real bash."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import Runner
from watcher.completion import databases


@pytest.fixture
def tree(runner: Runner) -> Runner:
    """Databases of all sorts of names, beside what is none."""
    runner.configure(tree={"databases": ["*.db"], "exclude": ["cache"]})
    for name in ("g1/s1/outbound.db", "g1/s2/out bound.db", "g2/new\nline.db", "g2/notes.txt", "cache/x.db"):
        (runner.root / name).parent.mkdir(parents=True, exist_ok=True)
        (runner.root / name).touch()
    (runner.root / "g1/s1/gone.db-journal").touch()
    return runner


def completed(tree: Runner, word: str, shell: str = "") -> list[str]:
    return databases(tree.settings, word, {"_JOURNAL_WATCHER_COMPLETE": shell})


def test_a_word_is_completed_by_directories_and_databases_below_the_root(tree: Runner) -> None:
    assert completed(tree, "g") == ["g1/", "g2/"]
    assert completed(tree, "g1/") == ["g1/s1/", "g1/s2/"]
    assert completed(tree, "g1/s1/") == ["g1/s1/gone.db", "g1/s1/outbound.db"]
    assert completed(tree, "g1/s1/o") == ["g1/s1/outbound.db"]
    assert completed(tree, "g9/") == []


def test_an_absolute_word_finds_its_way_to_the_tree(tree: Runner) -> None:
    assert completed(tree, "/") == [f"/{tree.root.parts[1]}/"]
    assert completed(tree, f"{tree.root.parent}/") == [f"{tree.root}/"]
    assert completed(tree, f"{tree.root}/g1/s1/out") == [f"{tree.root}/g1/s1/outbound.db"]


def test_a_word_is_completed_from_the_working_directory_too(tree: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.root / "g1")
    assert completed(tree, "s1/out") == ["s1/outbound.db"]
    assert completed(tree, "../g1/s1/out") == ["../g1/s1/outbound.db"]


def test_names_are_shown_as_log_lines_show_them_and_bash_gets_them_quoted(tree: Runner) -> None:
    assert completed(tree, "g2/") == ["g2/new\\nline.db"]
    assert completed(tree, "g2/", "complete_bash") == ["'g2/new\\nline.db'"]
    assert completed(tree, "g1/s2/", "complete_bash") == ["'g1/s2/out bound.db'"]
    assert completed(tree, "g1/s2/", "complete_zsh") == ["g1/s2/out bound.db"]


def test_what_cannot_be_read_completes_nothing(tree: Runner, tmp_path: Path) -> None:
    assert databases(tmp_path / "missing.yaml", "g") == []
    shutil.rmtree(tree.root)
    assert completed(tree, "g") == []


@pytest.mark.parametrize("command", ["explain", "recover"])
def test_bash_itself_completes_a_path_that_the_command_then_takes(tree: Runner, command: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = Path(sys.executable).with_name("journal-watcher")
    if not script.exists():
        pytest.skip("the package is not installed")
    asked = f"""
        source <({shlex.quote(str(script))} --show-completion bash 2>/dev/null || true)
        COMP_WORDS=(journal-watcher {command} -c {shlex.quote(str(tree.settings))} g2/ne)
        COMP_CWORD=4 COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
        _journal_watcher_completion journal-watcher g2/ne {shlex.quote(str(tree.settings))}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environ = {
        **os.environ,
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    done = subprocess.run([bash, "-c", asked], capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert done.stdout == "'g2/new\\nline.db'\n", done.stderr
    (word,) = shlex.split(done.stdout)
    assert tree.command("explain", word).returncode == 0
