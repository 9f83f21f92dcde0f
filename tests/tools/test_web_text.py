"""What is read of a page: its words, lines and columns as a browser shows them."""

import pytest

from agentopd.tools.web_text import readable


def test_odd_pages_are_read() -> None:
    assert readable(b"\xff\xfe", "text/plain; charset=hex") == "\ufffd\ufffd"
    assert readable(b"a<style>b</style><br>c</script>d<svg><p>e</svg>f", "text/html") == "a\ncd\nf"
    assert readable(b"<" * 100_000, "text/html").startswith("<")
    table = b"<table><caption>Born<tr><th><th>Ada<th>Bo\t</tr>\n<tr> <td>in</td><td>1</td>\n<td>2<tr><td>to<td><td><b>4</b>5</table><p>end"
    assert readable(table, "text/html") == "Born\n\tAda\tBo\n\nin\t1\t2\nto\t\t45\n\nend"
    assert readable(b"<select><option>a<option>b</select><details><summary>c</summary>d", "text/html") == "a\nb\n\nc\nd"


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (
            "<p>Run\n it:<pre><code>def f(x):\n    if <b>x</b>:\n        return  1</code></pre>and\n go",
            "Run it:\ndef f(x):\n    if x:\n        return  1\nand go",
        ),
        ("<PRE>Year  Men\r\n1990   12\r\n</PRE>", "Year  Men\n1990   12"),
        ("<pre>all:\n\tcc&#10;  a\0\1</pre>", "all:\n\tcc\n  a"),
        ("<textarea>1\n 2</textarea></pre>a\n b", "1\n 2\n\na b"),
        ("<pre>  first\n</pre>", "  first"),
    ],
)
def test_preformatted_lines_and_columns_stay(page: str, told: str) -> None:
    assert readable(page.encode(), "text/html") == told


def test_an_empty_first_cell_moves_no_column() -> None:
    assert readable(b"\n \n\tA\tB\nx\t1\t2\n", "text/tab-separated-values") == "\tA\tB\nx\t1\t2"
    table = b"<table><tr><th></th><th>2019</th><th>2020</th></tr><tr><th>Rain<td>1<td>2</table>"
    assert readable(table, "text/html") == "\t2019\t2020\n\nRain\t1\t2"
