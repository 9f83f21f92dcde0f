"""Puts the files of ``web/`` together to one page: modules inlined, and a policy that lets the browser ask nobody for anything."""

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from importlib import resources
from typing import Any

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./([\w-]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_LEVEL = 6


def head(title: str, served: bool) -> str:
    """The page up to its data: style sheet, empty body, program. The policy names program and style by their hashes.

    Args:
        title: Of the document, until the page knows better.
        served: Whether the data comes from the server of the page; else it is in the page, and nothing is asked for at all.
    """
    script, style = program(), styles()
    asks = "'self'" if served else "'none'"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; connect-src {asks}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": escape(policy), "title": escape(title), "style": style, "script": script}
    parts["served"] = " data-served" if served else ""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read("page.html"))


def tail() -> str:
    """What ends the page."""
    return "</body></html>\n"


def block(name: str, content: str) -> str:
    """A data block of the page: gzip in base64, so that no letter of its content can mean anything to a parser."""
    packed = base64.b64encode(gzip.compress(content.encode("ascii"), _LEVEL, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="{escape(name)}">{packed}</script>\n'


def text(value: Any) -> str:
    """Plain data as JSON in ASCII; what JSON does not know becomes text: a whole block is lost to a browser by one `NaN`."""
    try:
        return _dumped(value)
    except ValueError:
        return _dumped(_finite(value))


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {name: _finite(inside) for name, inside in value.items()}
    return [_finite(inside) for inside in value] if isinstance(value, list | tuple) else value


@cache
def read(name: str) -> str:
    """A file of ``web/``."""
    return resources.files("agentopd.viewer").joinpath("web", name).read_text(encoding="utf-8")


def styles() -> str:
    """The whole style sheet."""
    return read("palette.css") + read("style.css")


@cache
def program() -> str:
    """The modules as one program, each in a function of its own, those it imports before it."""
    modules = dict(_modules("main", ()))
    script = '"use strict";\n' + "".join(modules.values())
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("a file of agentopd/viewer/web would end its own script element; write the text in two parts")
    return script


def _modules(name: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if name in above:
        raise ValueError(f"agentopd/viewer/web: modules import each other in a circle: {' -> '.join([*above, name])}")
    source = read(f"{name}.js")
    for _, other in _IMPORT.findall(source):
        yield from _modules(other, (*above, name))
    exports = _EXPORT.findall(source)
    source = _EXPORT.sub("", _IMPORT.sub(r"const { \1 } = $\2;\n", source))
    left = re.search(r"^(?:import|export)\b.*$", source, re.MULTILINE)
    if left:
        raise ValueError(f"agentopd/viewer/web/{name}.js: {left[0]!r} is of a form that is not inlined")
    yield name, f"const ${name} = (() => {{\n{source}return {{ {', '.join(exports)} }};\n}})();\n"


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
