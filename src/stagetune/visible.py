"""Text from elsewhere as it is shown: what would act on a terminal, a page or a picture is written out."""

import re

# control characters (C0 but for line breaks, C1), what turns the direction of writing, line breaks of Unicode, and
# the halves of characters that stand for bytes of a file's name
_UNSHOWABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The same, with what cannot be shown as Python writes it; line breaks stay.

    >>> print(visible("cat\x1b[2J"))
    cat\x1b[2J
    """
    return _UNSHOWABLE.sub(_written_out, text)


def visible_name(text: str) -> str:
    """The same on one line."""
    return visible(text).replace("\n", "\\n")


def _written_out(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
