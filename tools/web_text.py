"""What a page says, as plain text. HTML is parsed by ``lxml``, what pages call their encodings is known to ``webencodings``."""

import codecs
import re
from collections.abc import Mapping

from gymnasium.error import DependencyNotInstalled

from agentopd.errors import ToolError
from agentopd.tooling import brief

try:
    import webencodings
    from lxml import etree
except ImportError as error:
    raise DependencyNotInstalled("the tool fetch needs lxml and webencodings: pip install 'agentopd[fetch]'") from error

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_LARGER = {"gbk": "gb18030"}
"""What pages mean by a name that Python takes for less."""
_HEAD = 1024
"""Bytes in which a page may say what it is written in, as in browsers."""
_SAYS = re.compile(rb"<(?:meta\s[^>]*?charset|\?xml\s[^>]*?encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_TEXT = re.compile(r"text/[\w.+-]+|application/([\w.-]+\+)?(json|xml)")
_HTML = ("text/html", "application/xhtml+xml")
_FIRST_BLANK = re.compile(r"\A\s*\n")
"""Lines before the text. Where the first line is indented, or its first cell empty, that stays."""

_BLOCKS = frozenset(
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
        "textarea",
        "title",
        "tr",
        "ul",
    ]
)
"""Which begin a line, and what follows them another."""
_KEPT = frozenset({"pre", "textarea"})
"""In which white space counts."""
_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})
_SHIFTED = {"sup": "^", "sub": "_"}
"""Without a mark 10<sup>6</sup> would be 106."""
_CELLS = frozenset({"td", "th"})
_GROUPS = frozenset({"thead", "tbody", "tfoot"})
_COLUMNS = 100
"""Of a table that are kept apart: spans make more of a page than it is long."""


def readable(body: bytes, kind: str) -> str:
    """The text of a page, of HTML without its tags: a line for each block, and a tab for each column of a table but the first.

    What is raised or lowered stands behind ``^`` or ``_``: ``10^6``, ``x_1``. Lines and columns of what HTML calls preformatted, such as
    code, stay as they are.

    Raises:
        ToolError: ``kind``, the media type, is none of a text.
    """
    media, _, parameters = kind.partition(";")
    media = media.strip().lower()
    if not _TEXT.fullmatch(media):
        raise ToolError(f"the page is {brief(repr(media), 60)}, no text")
    text = body.decode(_charset(body, media, parameters), "replace")
    return _FIRST_BLANK.sub("", (_without_tags(text) if media in _HTML else text).rstrip()) or "The page is empty."


def _charset(body: bytes, media: str, parameters: str) -> str:
    """What a page is written in: what its first bytes, else the answer's header, else the page itself say; else UTF-8."""
    for mark, name in _MARKS.items():
        if body.startswith(mark):
            return name
    if found := re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", parameters, re.IGNORECASE):
        return _known(found[1])
    said = _SAYS.search(body[:_HEAD]) if media.endswith(("html", "xml")) else None
    name = _known(said[1].decode("ascii", "replace")) if said else "utf-8"
    return "utf-8" if name.startswith("utf-16") else name  # which could not have been read so far


def _known(label: str) -> str:
    try:
        found = webencodings.lookup(label)
        return "utf-8" if found is None else codecs.lookup(_LARGER.get(found.name, found.codec_info.name)).name
    except LookupError:  # what browsers do not decode either
        return "utf-8"


_HELD = str.maketrans(" \t\n", "\0\1\2")
_RELEASED = str.maketrans("\0\1\2", " \t\n")
"""White space that counts is written so until the other is gone; no page may hold these three."""


def _without_tags(page: str) -> str:
    """What a page of HTML says."""
    page = re.sub("[\0\1\2]", "", re.sub(r"\r\n?", "\n", page))
    parser = etree.HTMLParser(encoding="utf-8", target=_Seen())
    parser.feed(page.encode("utf-8", "replace"))
    lines = ("\t".join(map(_spaced, line.split("\t"))) for line in parser.close().split("\n"))
    lines = (line.removeprefix("\t").strip("\2").rstrip() for line in lines)
    return "\n".join(line for line in lines if line).translate(_RELEASED)


class _Seen:
    """The pieces of what is seen of a page, as its parser comes by them: a tree is only so deep, and may take the square of the page's length."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._hidden = 0
        """Elements that are not seen, around this place."""
        self._kept = 0
        self._tables = [_Table()]

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        self._hidden += name in _UNSEEN
        self._kept += name in _KEPT
        if not self._hidden:
            self._pieces.append(self._before(name, attributes))

    def end(self, name: str) -> None:
        """It ends."""
        self._hidden -= name in _UNSEEN
        self._kept -= name in _KEPT
        if not self._hidden:
            if name == "table":
                del self._tables[-1]
            if name in _BLOCKS:
                self._pieces.append("\n")

    def data(self, text: str) -> None:
        """Words."""
        if not self._hidden:
            self._pieces.append(text.translate(_HELD) if self._kept else text.replace("\n", " ").replace("\t", " "))

    def close(self) -> str:
        """All of it."""
        return "".join(self._pieces)

    def _before(self, name: str, attributes: Mapping[str, str]) -> str:
        """What stands between what comes before an element and its own words."""
        if name in _CELLS:
            return self._tables[-1].cell(_span(attributes, "rowspan"), _span(attributes, "colspan"))
        if name == "table":
            self._tables.append(_Table())
        elif name == "tr":
            self._tables[-1].row()
        elif name in _GROUPS:
            self._tables[-1].rows_left.clear()
        return "\n" if name in _BLOCKS else _SHIFTED.get(name, "")


def _span(attributes: Mapping[str, str], name: str) -> int:
    told = attributes.get(name, "").strip()
    return max(int(told), 1) if re.fullmatch(r"[0-9]{1,4}", told) else 1


class _Table:
    """Where a table's cells stand. A cell that spans several rows or columns moves the others no further from their heading."""

    def __init__(self) -> None:
        self._column, self._tabs = 0, 0
        self.rows_left: list[int] = []
        """By column, how many rows its last cell still takes, this one included."""

    def row(self) -> None:
        """A row begins."""
        self._column, self._tabs = 0, 0
        self.rows_left = [max(left - 1, 0) for left in self.rows_left]

    def cell(self, rows: int, columns: int) -> str:
        """The tabs before the next cell, one for each column that begins since the one before."""
        while self._column < len(self.rows_left) and self.rows_left[self._column]:
            self._column += 1
        tabs, self._tabs = self._column + 1 - self._tabs, self._column + 1
        end = min(self._column + columns, max(self._column + 1, _COLUMNS))
        if end <= _COLUMNS:
            self.rows_left += [0] * (end - len(self.rows_left))
            self.rows_left[self._column : end] = [rows] * (end - self._column)
        self._column = end
        return "\t" * tabs


def _spaced(text: str) -> str:
    return " ".join(text.split())
