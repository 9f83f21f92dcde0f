"""What a page says, as plain text."""

import codecs
import html
import re
from collections.abc import Iterator, Mapping

from agentopd.errors import ToolError
from agentopd.tooling import brief

CHARSETS = {
    **{
        name: name
        for name in (
            *("utf-8", "utf-16", "utf-16-le", "utf-16-be"),
            *(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
            *(f"cp{page}" for page in (866, 874, 932, 949, *range(1250, 1259))),
            *("koi8-r", "koi8-u", "mac-roman", "big5", "euc_jp", "iso2022_jp", "gb18030"),
        )
    },
    **{"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874"},
    **{"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"},
}
"""Those of the web (https://encoding.spec.whatwg.org), by Python's names, with what they are read as: often the larger one that pages mean.
Others, of which some decompress, are read as UTF-8."""
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_HEAD = 1024
"""Bytes in which a page may say what it is written in, as in browsers."""
_SAYS = re.compile(rb"<(?:meta\s[^>]*?charset|\?xml\s[^>]*?encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
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
        "textarea",
        "title",
        "ul",
    ]
)
_SHIFTED = {"sup": "^", "sub": "_"}
"""Without a mark 10<sup>6</sup> would be 106."""
_CELLS = frozenset({"td", "th"})
_OF_TABLES = _CELLS | {"table", "tr", "thead", "tbody", "tfoot"}
_SPAN = re.compile(r"\b(col|row)span\s*=\s*[\"']?\s*([0-9]{1,4})", re.IGNORECASE)
_COLUMNS = 100
"""Of a table that are kept apart: spans make more of a page than it is long."""
_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})
_KEPT = frozenset({"pre", "textarea"})
"""In which white space counts."""
_RAW = frozenset({"script", "style"})
"""Whose content is no markup."""


_FIRST_BLANK = re.compile(r"\A\s*\n")
"""Lines before the text. Where the first line is indented, or its first cell empty, that stays."""


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
    if media in ("text/html", "application/xhtml+xml"):
        text = _without_tags(text, closes=media != "text/html")
    return _FIRST_BLANK.sub("", text.rstrip()) or "The page is empty."


def _charset(body: bytes, media: str, parameters: str) -> str:
    """What a page is written in: what its first bytes, else the answer's header, else the page itself say."""
    for mark, name in _MARKS.items():
        if body.startswith(mark):
            return name
    if found := re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", parameters, re.IGNORECASE):
        return _known(found[1])
    said = _SAYS.search(body[:_HEAD]) if media.endswith(("html", "xml")) else None
    name = _known(said[1].decode("ascii", "replace")) if said else "utf-8"
    return "utf-8" if name.startswith("utf-16") else name  # which could not have been read so far


def _known(name: str) -> str:
    try:
        return CHARSETS.get(codecs.lookup(name).name, "utf-8")
    except LookupError:
        return "utf-8"


_HELD = str.maketrans(" \t", "\0\1")
_RELEASED = str.maketrans("\0\1", " \t")
"""White space that counts is written so until the other is gone; no page may hold these two."""


def _without_tags(page: str, closes: bool) -> str:
    """What a page of HTML says; ``closes``, of XHTML, where any element may close itself: ``<script/>``."""
    page = re.sub(r"\r\n?", "\n", page.replace("\0", "").replace("\1", ""))
    lines = ("\t".join(map(_spaced, line.split("\t"))) for line in "".join(_seen(page, closes)).split("\n"))
    lines = (line.removeprefix("\t").rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).translate(_RELEASED)


_MARKUP = re.compile(
    r"<(?:(?P<comment>!--)|(?P<other>[!?]|/(?![a-zA-Z]))|(?P<close>/?)(?P<name>[a-zA-Z][^\s/<>]{0,40}))"
)
_QUOTED = re.compile(r"(?:[^>\"']++|\"[^\"]*+\"|'[^']*+')*+>")
"""The rest of a tag, in which quotes may hold ``>``."""


def _seen(page: str, closes: bool) -> Iterator[str]:
    """The pieces of what is seen of a page, in time that grows with its length alone: the standard library's parser may take its square.

    A comment or a tag that does not end goes to the end of the page. From the first tag on whose quotes do not end, quotes mean nothing.
    """
    position, quotes, kept = 0, True, 0
    hidden: list[str] = []
    tables = _Tables()
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
        empty = page.endswith("/>", opened.end(), position) and (closes or "svg" in (name, *hidden))
        if opened["close"] and hidden and name == hidden[-1]:
            del hidden[-1]
        elif name in _UNSEEN and not opened["close"] and not empty:
            hidden.append(name)
            if name in _RAW:
                position = _raw_end(page, name, position)
        elif name in _OF_TABLES:
            yield tables.passed(name, bool(opened["close"]), page[opened.end() : position])
        elif name in _BREAKS:
            if name in _KEPT and not empty:
                kept = max(kept + (-1 if opened["close"] else 1), 0)
            yield "\n"
        elif name in _SHIFTED and not opened["close"]:
            yield _SHIFTED[name]
    if not hidden:
        yield _words(page[position:], kept > 0)


class _Tables:
    """The tables that a place of a page is in. A cell that spans several rows or columns moves the others no further from their heading."""

    def __init__(self) -> None:
        self._around = [_Table()]

    def passed(self, name: str, closes: bool, rest: str) -> str:
        """What a tag of a table, of which ``rest`` stands behind the name, puts between words."""
        table = self._around[-1]
        if name in _CELLS:
            return "" if closes else table.cell({one.lower(): int(of) for one, of in _SPAN.findall(rest)})
        if name == "table" and not closes:
            self._around.append(_Table())
        elif name == "table" and len(self._around) > 1:
            del self._around[-1]
        elif name == "tr" and not closes:
            table.row()
        elif name not in ("table", "tr"):
            table.rows_left.clear()
            return ""
        return "\n"


class _Table:
    """Where a table's cells stand."""

    def __init__(self) -> None:
        self._column, self._tabs = 0, 0
        self.rows_left: list[int] = []
        """By column, how many rows its last cell still takes, this one included."""

    def row(self) -> None:
        """A row begins."""
        self._column, self._tabs = 0, 0
        self.rows_left = [max(left - 1, 0) for left in self.rows_left]

    def cell(self, spans: Mapping[str, int]) -> str:
        """The tabs before the next cell, one for each column that begins since the one before."""
        while self._column < len(self.rows_left) and self.rows_left[self._column]:
            self._column += 1
        tabs, self._tabs = self._column + 1 - self._tabs, self._column + 1
        end = min(self._column + max(spans.get("col", 1), 1), max(self._column + 1, _COLUMNS))
        if end <= _COLUMNS:
            self.rows_left += [0] * (end - len(self.rows_left))
            self.rows_left[self._column : end] = [max(spans.get("row", 1), 1)] * (end - self._column)
        self._column = end
        return "\t" * tabs


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
