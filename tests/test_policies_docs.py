"""docs/policies.md says what the code does."""

import inspect
import json
import re
import textwrap
from pathlib import Path

import pytest

from policies import commands
from policies.golden import Case
from policies.load import library, parse_policy
from policies.schema import RuleModel

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


def test_every_command_of_the_first_example_has_its_function():
    (block,) = [b for b in BLOCKS if b.startswith("guard policy")]
    said = {word.replace("show", "why") for word in re.findall(r"guard policy (\w+)", block)}
    functions = {name for name, _ in inspect.getmembers(commands, inspect.isfunction)}
    assert said <= functions
