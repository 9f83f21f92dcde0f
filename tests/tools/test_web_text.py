"""What is read of a page: its words, lines and columns as a browser shows them."""

import pytest
from webencodings.labels import LABELS

from agentopd.tools.web_text import readable


def test_odd_pages_are_read() -> None:
    assert readable(b"\xff\xfa", "text/plain; charset=hex") == "\ufffd\ufffd"
    assert readable(b"a<style>b</style><br>c</script>d<svg><p>e</svg>f", "text/html") == "a\ncdf"
    assert readable(b"<" * 100_000, "text/html").startswith("<")
    table = b"<table><caption>Born<tr><th><th>Ada<th>Bo\t</tr>\n<tr> <td>in</td><td>1</td>\n<td>2<tr><td>to<td><td><b>4</b>5</table><p>end"
    assert readable(table, "text/html") == "Born\n\tAda\tBo\nin\t1\t2\nto\t\t45\nend"
    assert readable(b"<select><option>a<option>b</select><details><summary>c</summary>d", "text/html") == "a\nb\nc\nd"


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (
            "<p>Run\n it:<pre><code>def f(x):\n    if <b>x</b>:\n        return  1</code></pre>and\n go",
            "Run it:\ndef f(x):\n    if x:\n        return  1\nand go",
        ),
        ("<PRE>Year  Men\r\n1990   12\r\n</PRE>", "Year  Men\n1990   12"),
        ("<pre>all:\n\tcc&#10;  a\0\1</pre>", "all:\n\tcc\n  a"),
        ("<textarea>1\n 2</textarea></pre>a\n b", "1\n 2\na b"),
        ("<pre>  first\n</pre>", "  first"),
        ("<pre>\na:\n\n\n  b\n</pre><p>c", "a:\n\n\n  b\nc"),
    ],
)
def test_preformatted_lines_and_columns_stay(page: str, told: str) -> None:
    assert readable(page.encode(), "text/html") == told


def test_an_empty_first_cell_moves_no_column() -> None:
    assert readable(b"\n \n\tA\tB\nx\t1\t2\n", "text/tab-separated-values") == "\tA\tB\nx\t1\t2"
    table = b"<table><tr><th></th><th>2019</th><th>2020</th></tr><tr><th>Rain<td>1<td>2</table>"
    assert readable(table, "text/html") == "\t2019\t2020\nRain\t1\t2"


@pytest.mark.parametrize(
    ("kind", "head", "words", "charset"),
    [
        ("text/html", '<meta charset="iso-8859-1">', "Caf\u00e9 10 \u00a3", "latin-1"),
        (
            "text/html",
            '<META HTTP-EQUIV="Content-Type" CONTENT="text/html; charset=windows-1251">',
            "\u043c\u0438\u0440",
            "cp1251",
        ),
        ("application/xml", "<?xml version=\"1.0\" encoding='ISO-8859-2'?>", "\u0141\u00f3d\u017a", "iso8859-2"),
        ("text/html; charset=x-sjis", "", "\u65e5\u672c \u2460", "cp932"),
        ("text/html; charset=gb2312", "", "\u4e2d\u6587 \u9555", "gbk"),
        ("text/html; charset='euc-kr'", '<meta charset="utf-8">', "\ud55c\uad6d", "euc_kr"),
        ("text/html; charset=iso-8859-1", "", "\u201cquoted\u201d 5 \u20ac", "cp1252"),
        ("text/html", '<meta charset="utf-16">', "Gr\u00fc\u00dfe", "utf-8"),
        ("application/json; charset=latin-1", "", '{"a": "\u00e9"}', "utf-8-sig"),
        ("text/html", "", "Gr\u00fc\u00dfe", "utf-16"),
        ("text/plain", '<meta charset="latin-1">', "Gr\u00fc\u00dfe", "utf-8"),
    ],
)
def test_pages_are_read_in_what_they_say_they_are_written_in(kind: str, head: str, words: str, charset: str) -> None:
    assert readable((head + words).encode(charset), kind).endswith(words)


def test_each_name_of_an_encoding_that_the_web_knows_is_taken() -> None:
    for name, encoding in {**LABELS, "hex": "", "zip": "", "nosuch": ""}.items():
        written = "abc".encode(encoding) if encoding.startswith("utf-16") else b"abc"
        assert readable(written, f"text/plain; charset={name}") == "abc", name


@pytest.mark.parametrize(
    ("media", "page", "told"),
    [
        ("text/html", "a<svg class='i'/>b<svg><style/><script/>c</svg>d", "abd"),
        (
            "application/xhtml+xml",
            "<script src='a.js'/>a<textarea/>b\n <script>c</script>d<noscript>e</noscript>f",
            "a\nb df",
        ),
    ],
)
def test_an_element_that_closes_itself_hides_nothing(media: str, page: str, told: str) -> None:
    assert readable(page.encode(), media) == told


def test_powers_are_no_further_digits() -> None:
    page = b"10<sup>6</sup> in 1912<SUP class='n'><a>[3]</a></SUP>, log<sub>2</sub>8<script>x<sup>y</script>"
    assert readable(page, "text/html") == "10^6 in 1912^[3], log_28"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            "<tr><th>Y<th>a<th>b<tr><td rowspan=2>1<td>2<td>3<tr><td>4<td>5<tr><td>6<td>7",
            "Y\ta\tb\n1\t2\t3\n\t4\t5\n6\t7",
        ),
        ("<tr><th COLSPAN='2'>2019<th>2020<tr><td>1<td>2<td>3", "2019\t\t2020\n1\t2\t3"),
        ("<tr><td>1<td rowspan=2 colspan=2>2<td>3<tr><td>4<td>5", "1\t2\t\t3\n4\t\t\t5"),
        ("<tbody><tr><td rowspan=9>1<td>2</tbody><tbody><tr><td>3<td>4", "1\t2\n3\t4"),
        ("<tr><td rowspan=2>1<td><table><tr><td>2<td>3</table><td>4<tr><td>5", "1\n2\t3\n4\n\t5"),
    ],
)
def test_a_cell_that_spans_others_moves_no_column(rows: str, told: str) -> None:
    assert readable(f"<table>{rows}</table>".encode(), "text/html") == told


def test_spans_make_no_page_much_longer() -> None:
    wide = "<tr>" + "<td colspan=1000 rowspan=9999>x" * 200 + "<tr><td>y" * 20_000
    assert len(readable(f"<table>{wide}".encode(), "text/html")) < 20 * len(wide)


def test_a_page_is_read_whole_however_deep_it_is() -> None:
    assert readable(b"a" + b"<div>" * 3000 + b"b" + b"</div>" * 3000 + b"c", "text/html") == "a\nb\nc"
    assert readable(("<a " + " ".join(f"b{i}=1" for i in range(50_000)) + ">x").encode(), "text/html") == "x"


@pytest.mark.parametrize(
    "page", ["", " ", "<!-- a", "<script>a", "<a b='", "\0\2", "<table>", "&nosuch;</td></table></table><td>"]
)
def test_pages_that_hardly_are_any(page: str) -> None:
    assert readable(page.encode(), "text/html") in ("The page is empty.", "&nosuch;")
