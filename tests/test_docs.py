"""What the documents say is there, is there."""

import re
from pathlib import Path

import pytest

from guard.config import _ENVIRONMENT, Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FIRST_PART = re.compile(r"(guard|fast_path|slow_path|policies|data_filter|eval|serve|tests|docs|benchmarks)/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for name in re.findall(r"`([\w./-]+\.(?:py|yaml|psv|json|md))`", text):
        if FIRST_PART.match(name):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_setting_and_variable_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for name in [*Settings.model_fields, *_ENVIRONMENT]:
        assert f"`{name}`" in text, f"{name} is missing in docs/configuration.md"


def test_readme_opens_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in lines[:12] if line.startswith("    ")]
    assert [command.split("#")[0].strip() for command in commands[:2]] == ["make demo", "make test"]


def test_no_page_names_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.~-])/(root|home|work)/", page.read_text(encoding="utf-8")), page.name
