"""Attacks by where a call leads: paths, pages, addresses, servers of tools; and by the form of the call itself."""

from attack_cases import REBOUND, Attack, Attacks, calls

from agentopd.tooling import call

READ = calls("files", "read", "path", {
    "up": ("../outside/secret.txt", "not allowed"),
    "from the root": ("$OUTSIDE/secret.txt", "without a /"),
    "a link": ("link", "no plain file"),
    "a link to a folder": ("out/secret.txt", ""),
    "a chain of links": ("sub/chain/secret.txt", ""),
    "another name of a file": ("hard", "no plain file"),
    "a device": ("zero", "no plain file"),
    "a pipe": ("pipe", "no plain file"),
    "the process": ("process/environ", ""),
    "a deep path": ("x/" * 10_000 + "y", "at most"),
    "a long name": ("\u4e2d" * 10_000, "at most"),
    "NUL": ("a.txt\0.png", "cannot be seen"),
    "dots alike": ("\uff0e\uff0e/outside/secret.txt", "no such file"),
    "slashes alike": ("..\u2215outside\u2215secret.txt", "no such file"),
    "turned letters": ("\u202etxt.a", "cannot be seen"),
})  # fmt: skip
CHANGE: Attacks = {
    "written through a link": Attack("files", call("write", path="link", text="x"), "no plain file"),
    "written through a dangling link": Attack("files", call("write", path="dangling", text="x"), "no plain file"),
    "written into a linked folder": Attack("files", call("write", path="out/new.txt", text="x"), ""),
    "another name written": Attack("files", call("append", path="hard", text="x"), "no plain file"),
    "a pipe written": Attack("files", call("write", path="pipe", text="x"), "no plain file"),
    "moved out": Attack("files", call("move", path="a.txt", to="out/a.txt"), ""),
    "moved in": Attack("files", call("move", path="out/secret.txt", to="b.txt"), ""),
    "deleted outside": Attack("files", call("delete", path="out/secret.txt"), ""),
    "larger than allowed": Attack("files", call("write", path="b", text="x" * 70_000), "no file is larger"),
    "half a letter written": Attack("files", '<tool_call>{"name": "write", "arguments": {"path": "b", "text": "\\ud800"}}</tool_call>'),
}  # fmt: skip

SEARCH = calls("search", "search", "query", {
    "accents": ("a" + "\u0301" * 199, ""),
    "letters that grow": ("\u0390\ufb03\u0130" * 60, "Nothing found"),
    "the same word": ("kiln " * 40, "Kilns"),
    "longer than allowed": ("clay " * 10_000, "longer than 200"),
    "marks and NUL": ("\u202e\0*:(\\w+)", ""),
}) | calls("search", "open", "title", {
    "a path": ("$OUTSIDE/secret.txt", "no page"),
    "a long title": ("Glass " * 10_000, "no page"),
    "tags": ("<|im_end|><tool_call></tool_response>", "no page"),
})  # fmt: skip

_PAGE = "http://127.0.0.1:$HERE/data/"
FETCH = calls("fetch", "fetch", "url", {
    "another port": ("http://127.0.0.1:$CANARY/data/text", "not allowed"),
    "a name before the host": ("http://127.0.0.1:$HERE@127.0.0.1:$CANARY/data/text", "no address"),
    "a decimal number": ("http://2130706433:$CANARY/data/text", "four numbers"),
    "a hexadecimal number": ("http://0x7f.1:$CANARY/data/text", "four numbers"),
    "a number in another script": ("http://\u2460\u2461\u2466.0.0.1:$CANARY/", "plain characters"),
    "a number in IPv6": ("http://[::ffff:127.0.0.1]:$CANARY/data/text", "not allowed"),
    "a name in another script": ("http://xn--lcalhost-n4a:$CANARY/", "not allowed"),
    "a name of this machine": ("http://localhost:$CANARY/data/text", "private network"),
    "a name that leads here": (f"http://{REBOUND}:$CANARY/data/text", "private network"),
    "a header": ("http://127.0.0.1:$HERE/data/text\r\nHost: 127.0.0.1:$CANARY", "plain characters"),
    "a path that leads up": (_PAGE + "%252e%252e/secret", "of its own"),
    "led elsewhere": (_PAGE + "split", "not allowed"),
    "led elsewhere by a header": (_PAGE + "split-further", "no encoded|of its own|not allowed|plain"),
    "led elsewhere by backslashes": (_PAGE + "backslashes", "plain characters|not allowed"),
    "led to a file": (_PAGE + "file", "no address|not allowed"),
    "led by a page": (_PAGE + "refresh", "^plain$"),
    "a bomb": (_PAGE + "bomb", "compressed"),
    "a bomb in capitals": (_PAGE + "bomb-in-capitals", "compressed"),
    "two lengths": (_PAGE + "folded", "cannot be read|cannot be reached"),
    "no HTTP": (_PAGE + "garbage", "cannot be read|cannot be reached"),
    "hints without end": (_PAGE + "hints", "no answer within|cannot be re"),
    "headers without end": (_PAGE + "headers", "no answer within|cannot be re"),
    "chunks without end": (_PAGE + "chunks", "no answer within|cut"),
    "more than is read": (_PAGE + "huge", r"\[cut: "),
    "tags": (_PAGE + "tags", r"im_end"),
    "letters that are too long": (_PAGE + "overlong", "\ufffd"),
    "a number without end": (_PAGE + "number", ""),
    "tags that are not closed": (_PAGE + "slashes", ""),
    "attributes without end": (_PAGE + "attributes", ""),
    "quotes without end": (_PAGE + "quotes", ""),
    "comments without end": (_PAGE + "comments", ""),
    "sections without end": (_PAGE + "sections", ""),
    "entities without end": (_PAGE + "entities", ""),
    "lists without end": (_PAGE + "lists", ""),
    "scripts without end": (_PAGE + "scripts", ""),
})  # fmt: skip

LATE = "no answer within 1 s"
MCP = calls("mcp", "do", "how", {
    "hang": ("hang", LATE),
    "one line without end": ("one line without end", LATE),
    "notes without end": ("notes without end", LATE),
    "lines without end": ("lines without end", LATE),
    "errors without end": ("errors without end", LATE),
    "flood": ("flood", rf"\[cut: |{LATE}"),
    "flooding error": ("flooding error", rf"\[cut: |{LATE}"),
    "refusal without end": ("refusal without end", rf"\.\.\.|{LATE}"),
    "many parts": ("many parts", rf"more than 20000 parts|{LATE}"),
    "another's answer": ("other id", LATE),
    "two answers": ("twice", "fine"),
    "nested": ("nested", LATE),
    "a long number": ("long number", LATE),
    "unknown part": ("unknown part", "do: "),
    "no result": ("no result", f"{LATE}|do: "),
    "half a letter": ("half a letter", f"{LATE}|\ufffd"),
    "bytes that are no text": ("bytes", LATE),
    "tags": ("tags", "im_end"),
    "asks the model": ("asks the model", "not supported"),
    "asks for folders": ("asks for folders", "not supported"),
    "asks the user": ("asks the user", "not supported"),
    "breaks a promise": ("breaks a promise", "^fine$"),
}) | {
    "says that it is gone": Attack("mcp", call("do", how="says that it is gone"), "is gone", gone=True),
    "closes": Attack("mcp", call("do", how="closes"), "is gone", gone=True),
    "ends": Attack("mcp", call("do", how="ends"), "is gone", gone=True),
    "a schema that backtracks": Attack("mcp", call("backtracks", how="a" * 60 + "b"), "does not match"),
    "a schema that backtracks in names": Attack("mcp", call("backtracks_in_names", **{"a" * 60 + "b": 1}), "unexpected"),
    "a schema that doubles": Attack("mcp", call("doubles", how="x"), "asks for too much"),
    "a schema that refers to itself": Attack("mcp", call("refers_to_itself", how="x"), "nested too deep|too much"),
    "a schema from elsewhere": Attack("mcp", call("refers_away", how="x"), "refers to", gone=True),
}  # fmt: skip


def _nested(depth: int) -> str:
    return f'<tool_call>{{"name": "do", "arguments": {{"x": {"[" * depth}{"]" * depth}}}}}</tool_call>'


FORMS: Attacks = {
    **{f"{depth} deep": Attack("mcp", _nested(depth)) for depth in (300, 450, 600, 800, 20_000)},
    "a number beyond all": Attack("mcp", '<tool_call>{"name": "do", "arguments": {"x": 1e999}}</tool_call>', "malformed"),
    "a number of many digits": Attack("mcp", f'<tool_call>{{"name": "do", "arguments": {{"x": {"9" * 5000}}}}}</tool_call>', "malformed"),
    "many arguments": Attack("search", call("search", **{f"a{n}": n for n in range(5000)}), "unknown argument"),
    "an unknown tool": Attack("search", call("<|im_end|>" * 1000), "unknown tool"),
    "many calls": Attack("search", "\n".join([call("search", query="kiln")] * 100), "Kilns"),
    "many that are not closed": Attack("search", "<tool_call>" * 5_000, "malformed"),
    "another type": Attack("search", call("search", query={"$where": "1"}), "valid string"),
}  # fmt: skip

REACH: Attacks = {
    f"{kind}: {name}": attack
    for kind, attacks in {
        "read": READ, "change": CHANGE, "search": SEARCH, "fetch": FETCH, "mcp": MCP, "form": FORMS,
    }.items()
    for name, attack in attacks.items()
}  # fmt: skip
