"""docs/policies.md says what the code does."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import typer

from policies.golden import Case
from policies.load import library, parse_policy
from policies.schema import RuleModel
from serve import cli

PAGE = (Path(__file__).parents[1] / "docs/policies.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"\n\n((?:    .*\n|\n(?=    ))+)", PAGE)]


def section(title):
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_table_of_keys_is_complete():
    rows = re.findall(r"^\| (`.*?) \|", section("A policy file"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(RuleModel.model_fields)


def test_the_table_of_the_library_is_complete():
    rows = re.findall(r"^\| (`.*?) \|", section("The library"), re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(rows))) == list(library())


@pytest.mark.parametrize("block", [b for b in BLOCKS if "rules:" in b], ids=lambda b: b.split("\n")[0])
def test_the_policy_files_are_valid(block):
    text = block if "name:" in block.split("rules:")[0] else f"name: x\nversion: 1\n{block}"
    assert parse_policy(text).active()


def test_the_golden_cases_are_valid():
    (block,) = [b for b in BLOCKS if b.startswith('{"path"')]
    assert [Case.model_validate(json.loads(line)).path for line in block.strip().splitlines()] == [
        "boxing.mp4",
        "brawl.mp4",
    ]


def test_every_command_that_is_shown_is_there_with_its_options():
    """Asks the real command line, so that neither a command nor an option can be renamed away from the page."""
    root = typer.main.get_command(cli.app)
    lines = [line for block in BLOCKS for line in block.splitlines() if line.startswith("guard ")]
    assert len(lines) > 8
    for line in lines:
        words = shlex.split(line.partition("#")[0])[1:]
        command = root
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
