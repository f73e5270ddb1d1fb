"""docs/troubleshooting.md speaks of messages that there are, and of each kind of error."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagetune import errors

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
HEADLINES = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
VALUE = "\0"  # stands for what differs


def texts(path: Path) -> Iterator[str]:
    """The texts of a module, with `VALUE` for what is put into them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def says(text: str, parts: list[str]) -> bool:
    """Whether the text has all of the parts, one after the other."""
    for part in parts:
        if part not in text:
            return False
        text = text[text.index(part) + len(part) :]
    return True


MESSAGES = [text for path in (ROOT / "src").rglob("*.py") for text in texts(path)]


@pytest.mark.parametrize("headline", HEADLINES)
def test_a_message_of_the_page_is_one_of_the_code(headline: str) -> None:
    fixed = [part.strip() for part in headline.split("…")]
    assert max(map(len, fixed)) >= 8, "too little of the message to know it by"
    assert any(says(text, fixed) for text in MESSAGES)


def test_a_message_that_the_code_does_not_have_is_noticed() -> None:
    text = f"{VALUE}: has no column {VALUE}; add it"
    assert says(text, ["", ": has no column", ";", ""])
    assert not any(
        says(text, parts) for parts in (["has no row"], ["; add it", "has no column"], ["add it", "add it"])
    )


def test_the_page_speaks_of_every_kind_of_error() -> None:
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert [name for name in kinds if f"`{name}`" not in PAGE] == []
    assert len(HEADLINES) > 30
