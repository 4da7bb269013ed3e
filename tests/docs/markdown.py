"""The code blocks of a page of documentation."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)$")
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text and where it starts."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str  #: why it is not run, from a comment right above it: <!-- not run: needs a server -->


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order.

    Raises ValueError if a fence is never closed.
    """
    found: list[Block] = []
    lines = page.read_text().splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if start is None and fence:
            start = number
        elif start is not None and line == "```":
            opened = FENCE.match(lines[start])
            assert opened is not None
            above = NOT_RUN.match(lines[start - 1]) if start else None
            text = "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(page, start + 1, opened[1], text, above[1] if above else ""))
            start = None
    if start is not None:
        raise ValueError(f"{page.name}:{start + 1}: this fence is never closed")
    return found


def commands(block: Block, program: str) -> list[list[str]]:
    """The words after `program` of every call of it in a bash block; comments, pipes and redirections end one."""
    calls = []
    for line in block.text.replace("\\\n", " ").splitlines():
        for words in _simple_commands(line):
            while words and "=" in words[0] and not words[0].startswith("-"):
                words = words[1:]  # variables set for one command
            if words and words[0] == program:
                calls.append(words[1:])
    return calls


def _simple_commands(line: str) -> list[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word and set(word) <= set("|&;<>"):
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
