"""A shell that evaluates the script completes commands, their actions, options and files."""

import subprocess
from pathlib import Path

import pytest

from rlserve.cli.main import main

ASK = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={last} COMP_LINE="{words}"
COMP_TYPE=9
$(complete -p rlserve | sed 's/.*-F \\([^ ]*\\).*/\\1/') 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("rlserve con", "config"),
        ("rlserve config sh", "show"),
        ("rlserve run --dry", "--dry-run"),
        ("rlserve run own", "own.toml"),
    ],
)
def test_bash_completes(words: str, offered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "rlserve.bash").write_text(capsys.readouterr().out)
    (tmp_path / "own.toml").touch()
    ask = ASK.format(script=tmp_path / "rlserve.bash", words=words, last=len(words.split()) - 1)
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert offered in done.stdout.split(), done.stderr


def test_other_shells_get_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert "#compdef rlserve" in capsys.readouterr().out
