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
    """The words after `program` of every call of it in a block of shell."""
    calls = []
    for words in _simple_commands(block.text.replace("\\\n", " ")):
        while words and "=" in words[0] and not words[0].startswith("-"):
            words = words[1:]  # variables set for one command
        if words and words[0] == program:
            calls.append(words[1:])
    return calls


def _simple_commands(text: str) -> list[list[str]]:
    """The words of each command; the end of a line, a pipe and a redirection end one, quoted text does not."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    parts: list[list[str]] = [[]]
    in_comment = False
    for word in lexer:
        in_comment = (in_comment or word.startswith("#")) and "\n" not in word
        if word and set(word) <= set("|&;<>\n"):
            parts.append([])
        elif not in_comment:
            parts[-1].append(word)
    return parts
