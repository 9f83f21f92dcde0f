"""What a page says, as plain text."""

import codecs
import re
from html.parser import HTMLParser

from agentopd.errors import ToolError
from agentopd.tooling import brief

CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16", "utf-16-le", "utf-16-be"})
"""Of which others are read as UTF-8."""
_TEXT = re.compile(r"text/[\w.+-]+|application/([\w.-]+\+)?(json|xml)")
_BREAKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "br",
        "dd",
        "div",
        "dl",
        "dt",
        "figcaption",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "title",
        "tr",
        "ul",
    ]
)
_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})


def readable(body: bytes, kind: str) -> str:
    """The text of a page, of HTML without its tags.

    Raises:
        ToolError: ``kind``, the media type, is none of a text.
    """
    media, _, parameters = kind.partition(";")
    media = media.strip().lower()
    if not _TEXT.fullmatch(media):
        raise ToolError(f"the page is {brief(repr(media), 60)}, no text")
    found = re.search(r"charset\s*=\s*\"?([\w.:-]+)", parameters, re.IGNORECASE)
    text = body.decode(_charset(found[1] if found else "utf-8"), "replace")
    if media in ("text/html", "application/xhtml+xml"):
        text = _without_tags(text)
    return text.strip() or "The page is empty."


def _charset(name: str) -> str:
    try:
        known = codecs.lookup(name).name
    except LookupError:
        return "utf-8"
    return known if known in CHARSETS else "utf-8"


def _without_tags(html: str) -> str:
    page = _Page()
    page.feed(html)
    page.close()
    lines = (" ".join(line.split()) for line in "".join(page.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


class _Page(HTMLParser):
    """Collects what is seen of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag in _BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._unseen and tag == self._unseen[-1]:
            self._unseen.pop()
        elif tag in _BREAKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data.replace("\n", " "))
