"""HTML and SVG that cannot be broken out of: text is escaped where it is put in, and only elements are not text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Markup:
    """Finished markup; made by `element` and `join` alone."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Take `text` as it is: never give this anything from elsewhere."""
        self._text = text

    def __str__(self) -> str:
        return self._text


Child = str | Markup
Attribute = str | int | float
VOID = frozenset({"br", "hr", "meta"})


def element(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """Return one element. Text and attributes are escaped; `class_` is `class`, and `stroke_width` is `stroke-width`."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    given = "".join(f' {names[name]}="{escape(_written(value))}"' for name, value in attributes.items())
    return Markup(f"<{tag}{given}>" if tag in VOID else f"<{tag}{given}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Return all of them, one after the other."""
    return Markup("".join(str(child) if isinstance(child, Markup) else escape(child) for child in children))


def _written(value: Attribute) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
