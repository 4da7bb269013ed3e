"""What the documentation shows works: its Python runs, its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from .markdown import Block, blocks, commands

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
SHELLS = {"bash", "sh", "console"}


def _page_id(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def _block_id(block: Block) -> str:
    return f"{_page_id(block.page)}:{block.line}"


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    pytest.param(words, id=f"{_block_id(block)} equipot {' '.join(words[:1])}")
    for block in ALL_BLOCKS
    if block.language in SHELLS
    for words in commands(block, "equipot")
]


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python" and not block.not_run:
            code = "\n" * block.line + block.text  # so that a traceback shows the line of the page
            exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_shown_exists_with_the_options_shown(words: list[str]) -> None:
    from equipot.service.cli import app

    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    unknown = {word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)} - known - {"--help"}
    assert not unknown, f"known options: {sorted(known)}"


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_a_link_to_a_file_of_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_a_make_target_shown_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    shown = set(re.findall(r"(?:^\s*|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE))
    assert shown <= targets


def test_there_are_examples_to_run() -> None:
    assert any(block.language == "python" and not block.not_run for block in ALL_BLOCKS)
    assert COMMANDS
