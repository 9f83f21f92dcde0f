"""What a page says, as plain text."""

import codecs
import html
import re
from collections.abc import Iterator

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
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
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
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "option",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "title",
        "textarea",
        "tr",
        "ul",
    ]
)
_CELLS = frozenset({"td", "th"})
_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})
_KEPT = frozenset({"pre", "textarea"})
"""In which white space counts."""
_RAW = frozenset({"script", "style"})
"""Whose content is no markup."""


_FIRST_BLANK = re.compile(r"\A\s*\n")
"""Lines before the text. Where the first line is indented, or its first cell empty, that stays."""


def readable(body: bytes, kind: str) -> str:
    """The text of a page, of HTML without its tags: a line for each block, and a tab before each cell of a row but the first.

    Lines and columns of what HTML calls preformatted, such as code, stay as they are.

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
    return _FIRST_BLANK.sub("", text.rstrip()) or "The page is empty."


def _charset(name: str) -> str:
    try:
        known = codecs.lookup(name).name
    except LookupError:
        return "utf-8"
    return known if known in CHARSETS else "utf-8"


_HELD = str.maketrans(" \t", "\0\1")
_RELEASED = str.maketrans("\0\1", " \t")
"""White space that counts is written so until the other is gone; no page may hold these two."""


def _without_tags(page: str) -> str:
    page = re.sub(r"\r\n?", "\n", page.replace("\0", "").replace("\1", ""))
    lines = ("\t".join(map(_spaced, line.split("\t"))) for line in "".join(_seen(page)).split("\n"))
    lines = (line.removeprefix("\t").rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).translate(_RELEASED)


_MARKUP = re.compile(
    r"<(?:(?P<comment>!--)|(?P<other>[!?]|/(?![a-zA-Z]))|(?P<close>/?)(?P<name>[a-zA-Z][^\s/<>]{0,40}))"
)
_QUOTED = re.compile(r"(?:[^>\"']++|\"[^\"]*+\"|'[^']*+')*+>")
"""The rest of a tag, in which quotes may hold ``>``."""


def _seen(page: str) -> Iterator[str]:
    """The pieces of what is seen of a page, in time that grows with its length alone: the standard library's parser may take its square.

    A comment or a tag that does not end goes to the end of the page. From the first tag on whose quotes do not end, quotes mean nothing.
    """
    position, quotes, kept = 0, True, 0
    hidden: list[str] = []
    while opened := _MARKUP.search(page, position):
        if not hidden:
            yield _words(page[position : opened.start()], kept > 0)
        if opened["comment"]:
            position = _behind(page, "-->", opened.start() + 2)
            continue
        rest = _QUOTED.match(page, opened.end()) if opened["name"] and quotes else None
        quotes = quotes and (rest is not None or not opened["name"])
        position = rest.end() if rest else _behind(page, ">", opened.end())
        name = (opened["name"] or "").lower()
        if opened["close"] and hidden and name == hidden[-1]:
            del hidden[-1]
        elif name in _UNSEEN and not opened["close"]:
            hidden.append(name)
            if name in _RAW:
                position = _raw_end(page, name, position)
        elif name in _BREAKS:
            if name in _KEPT:
                kept = max(kept + (-1 if opened["close"] else 1), 0)
            yield "\n"
        elif name in _CELLS and not opened["close"]:
            yield "\t"
    if not hidden:
        yield _words(page[position:], kept > 0)


def _words(text: str, kept: bool) -> str:
    plain = html.unescape(text)
    return plain.translate(_HELD) if kept else plain.replace("\n", " ").replace("\t", " ")


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _behind(page: str, mark: str, start: int) -> int:
    found = page.find(mark, start)
    return len(page) if found < 0 else found + len(mark)


def _raw_end(page: str, name: str, start: int) -> int:
    """Where an element ends whose content holds no tags."""
    found = re.compile(f"</{name}", re.IGNORECASE).search(page, start)
    return found.start() if found else len(page)
