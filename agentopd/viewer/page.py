"""The parts that the page of a run is put together from: style sheet, tables, figures."""

from collections.abc import Iterable, Sequence
from html import escape

from agentopd.viewer.bundle import read

_CSS = (
    read("palette.css")
    + """
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 5rem; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 0 } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem } h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem } p.facts, figcaption, .missing { color: var(--muted) }
p { margin: .4rem 0 } .wide { overflow-x: auto } .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 1.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums } th { color: var(--muted); font-weight: 500; font-size: .85rem }
th, td { text-align: right; padding: .45rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap } th:first-child, td:first-child { text-align: left; padding-left: 0 }
figure { margin: 0; overflow-x: auto; min-width: 0 } figcaption { font-size: .85rem } svg { width: 100%; height: auto; min-width: 27rem; max-width: 44rem } svg text { font-family: inherit !important }
summary { cursor: pointer } code, pre { font: .84rem/1.5 ui-monospace, monospace } summary code { color: var(--muted) } pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
.episode { border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem; margin: .7rem 0 } .tools { margin-top: .7rem; color: var(--muted) }
.message { margin-top: .7rem; padding: .5rem .8rem; border-left: 3px solid var(--line) } .assistant { border-color: var(--student); background: var(--soft) } .failure { border-color: var(--bad) }
h4 { margin: 0 0 .2rem; font-size: .78rem; font-weight: 500; color: var(--muted) } .call { font: .84rem/1.5 ui-monospace, monospace; color: var(--muted); margin-top: .3rem }
.tags span { display: inline-block; font-size: .75rem; color: var(--muted); border: 1px solid var(--line); border-radius: 4px; padding: 0 .4rem; margin: .35rem .35rem 0 0 }
.good { color: var(--good) } .bad, .tags span.bad { color: var(--bad) } b { font-weight: 600 }
i { font-style: normal; border-radius: 2px; background: color-mix(in srgb, var(--heat) calc(var(--d) * 55%), transparent) } i.n { background: color-mix(in srgb, var(--cold) calc(var(--d) * 55%), transparent) }
.heat th { text-align: center; border: 0; padding: .2rem .3rem } .heat td { text-align: center; border: 2px solid var(--page); border-radius: 5px; padding: .3rem .35rem; font-size: .85rem; background: color-mix(in srgb, var(--student) calc(var(--d) * 60%), transparent) }
.heat tbody th { text-align: right; padding-right: .7rem; white-space: nowrap } a { color: var(--student); text-decoration: none } a:hover { text-decoration: underline } summary a { float: right; font-size: .9rem }
@media (max-width: 40rem) { body { padding: 1.5rem 1rem 3rem } th, td { padding: .4rem .5rem } td:first-child { white-space: normal; min-width: 8rem } .heat td { padding: .3rem .2rem } }
"""
)

_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>{title}</title><style>" + _CSS.replace("{", "{{").replace("}", "}}") + "</style></head>"
    '<body><header><h1>{title}</h1><p class="facts">{facts}</p></header>{body}</body></html>\n'
)


def page(title: str, facts: str, body: str) -> str:
    """A whole document. ``facts`` and ``body`` are HTML."""
    return _PAGE.format(title=escape(title), facts=facts, body=body)


def missing(text: str) -> str:
    """A line that says what is not there."""
    return f'<p class="missing">{escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; the first column is its rows' names."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def heat(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]], caption: str, share: bool = False
) -> str:
    """Numbers as a table, the larger the deeper its colour; ``share`` has them in per cent."""
    top = (
        1.0
        if share
        else max((value for _, values in rows for value in values if value is not None), default=0.0) or 1.0
    )
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(_heated(value, top, share) for value in values)}</tr>"
        for name, values in rows
    )
    inside = f'<table class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<figure><div class="wide">{inside}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _heated(value: float | None, top: float, share: bool) -> str:
    if value is None:
        return "<td></td>"
    shown = f"{100 * value:.0f}%" if share else f"{value:.2g}"
    return f'<td style="--d:{min(max(value / top, 0.0), 1.0):.2f}">{shown}</td>'


def figure(chart: str, caption: str) -> str:
    """A chart with its caption."""
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def grid(figures: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="grid">{"".join(figures)}</div>'
