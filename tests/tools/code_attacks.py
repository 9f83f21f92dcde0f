"""Attacks by what is written in a language: arithmetic, Python, SQL."""

from attack_cases import Attacks, calls

CALCULATOR = calls("calculator", "calculate", "expression", {
    "a tower of powers": ("9**9**9**9", "exponent"),
    "powers of powers": ("((9**15)**64)**64", "too large"),
    "a tower of digits with marks": ("1_0**1_5%1_1**1_6", "too large|^[0-9]"),
    "more digits than are read": ("9" * 199, "too large"),
    "a number that is none": ("1e308*10-1e308*10", "too large"),
    "a remainder of almost nothing": ("1e15%1e-300", "^[0-9]"),
    "parentheses": ("(" * 199, "not an expression"),
    "signs": ("-" * 199 + "1", "^-1$"),
    "an import": ("__import__('os').system('touch $OUTSIDE/x')", "only numbers|longer"),
    "digits of another script": ("\u0669**\uff19", "only numbers"),
    "bidirectional marks": ("\u202e1+2\u202c", "only numbers"),
})  # fmt: skip

SHARED = "x = (1,)\nfor i in range(60): x = (x, x)\n"
"""Sixty pairs, of which each holds the one before it twice: 2**60 values to whoever walks through them."""
_CLASS = "class A:\n    def __init__(self, x): self.x = x\n    def __repr__(self): return "
PYTHON = calls("python", "python", "code", {
    "a value without end": (SHARED + "x", "longer than|MemoryError"),
    "a value without end in a list": ("x = ['a']\nfor i in range(40): x = [x, x]\nx", "longer than|MemoryError"),
    "a value without end as a key": (SHARED + "{x: 1}", "longer than|MemoryError"),
    "a value without end in a set": (SHARED + "{x}", "longer than|MemoryError"),
    "a value without end that is printed": (SHARED + "print(x)", "longer than|MemoryError"),
    "objects without end": (_CLASS + "f'{self.x!r}'\nx = A(1)\nfor i in range(60): x = A([x, x])\nx", "longer than|Recursion|Memory"),
    "an object whose text takes long": (_CLASS + "[0 for i in range(10 ** 12)]\nA(1)", "longer than|TypeError|Memory"),
    "an object whose text is no text": (_CLASS + "self\nA(1)", "TypeError"),
    "a text of its own": (SHARED + "repr = str = lambda y: x\n[1]", r"^\[1\]$"),
    "a number with too many digits": ("10 ** 100000", "4300 digits"),
    "a value within itself": ("x = []\nx.append(x)\nx", r"\[\.\.\.\]"),
    "a value that is deep": ("x = []\nfor i in range(20000): x = [x]\nx", r"\.\.\.|Recursion|longer"),
    "a file": ("open('$OUTSIDE/secret.txt').read()", "Error"),
    "a file by its path": ("from pathlib import Path\nPath('$OUTSIDE/secret.txt').read_text()", "Error"),
    "a file that is written": ("open('$OUTSIDE/new.txt', 'w').write('x')", "Error"),
    "a process": ("import os\nos.fork()", "Error"),
    "a shell": ("import os\nos.system('touch $OUTSIDE/new.txt')", "Error"),
    "the environment": ("open('/proc/self/environ').read()", "Error"),
    "a socket": ("import socket\nsocket.create_connection(('127.0.0.1', $CANARY))", "Error"),
    "classes of the host": ("().__class__.__bases__[0].__subclasses__()", "Error"),
    "a loop that catches all": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "longer than"),
    "a loop at the end of all": ("try:\n    while True: pass\nfinally:\n    while True: pass", "longer than"),
    "memory that is asked for again": (
        "x = []\nwhile True:\n    try:\n        x.append('a' * 10 ** 6 + str(len(x)))\n    except MemoryError: pass",
        "MemoryError|longer than",
    ),
    "a wide field": ("'{:>1000000000}'.format(1)", "longer than|MemoryError"),
    "squares of squares": ("x = 10 ** 100000\nfor i in range(20): x = x * x", "longer than|MemoryError"),
    "output without end": ("while True: print('x' * 10 ** 6)", r"\[cut: "),
    "an expression that backtracks": ("import re\nre.search('(x+x+)+y', 'x' * 60)", ""),
    "brackets": ("(" * 4000 + "1" + ")" * 4000, "nested"),
    "NUL": ("print(1)\x00print(2)", "token|Error"),
    "bidirectional marks": ("print('\u202e\u2066')", "\u202e\u2066"),
    "half a letter": ("'\\ud800'", ""),
    "accents": ("'a' + '\\u0301' * 9000", r"\[cut: "),
})  # fmt: skip

_FIVE = "numbers a, numbers b, numbers c, numbers d, numbers e"
SQL = calls("sqlite", "query", "sql", {
    "rows of another database": ("SELECT count(*) FROM other.hidden", "not authorized"),
    "rows of another database, unnamed": ("SELECT count(*) FROM Hidden", "not authorized"),
    "rows of a temporary table": ("SELECT EXISTS (SELECT 1 FROM noted)", "not authorized"),
    "rows of the temporary schema": ("SELECT count(*) FROM sqlite_temp_master", "not authorized"),
    "words of another database": ("SELECT word FROM other.hidden", "prohibited|not authorized"),
    "words of a temporary table": ("SELECT max(word) FROM noted", "prohibited|not authorized"),
    "attach": ("ATTACH '$OUTSIDE/new.db' AS x", "not authorized|too many attached"),
    "vacuum into": ("VACUUM INTO '$OUTSIDE/new.db'", "denied"),
    "a write": ("INSERT INTO other.hidden VALUES ('x')", "not authorized"),
    "a write that is explained": ("EXPLAIN DELETE FROM towns", "not authorized"),
    "a pragma": ("PRAGMA query_only = OFF", "not authorized"),
    "a pragma that is counted": ("SELECT count(*) FROM pragma_database_list", "not authorized"),
    "an extension": ("SELECT iif(1, load_extension('$OUTSIDE/x.so'), 2)", "not authorized"),
    "a file": ("SELECT writefile('$OUTSIDE/new.txt', 'x')", "no such function"),
    "JSON that is taken apart": ("SELECT count(*) FROM json_each('[1]') a, json_each('[1]') b", "constructor|not authorized"),
    "recursion": ("WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a) SELECT count(*) FROM a", "not authorized"),
    "windows over a cross join": (f"SELECT count(*) OVER (ORDER BY a.n) FROM {_FIVE}", "interrupted"),
    "a pattern that backtracks": (f"SELECT 1 FROM {_FIVE} WHERE printf('%1900d', a.n) GLOB '{'*[0-9 ]' * 25}x'", "interrupted|no rows"),
    "text without end": ("SELECT group_concat(n, printf('%9000d', 1)) FROM numbers", "too big"),
    "a character repeated": ("SELECT printf('%.*c', 2000000000, 'x')", "printf cannot"),
    "a character repeated by a form that is made": ("SELECT format('%-.' || n || '999999999' || 'lc', 'x') FROM numbers", "printf cannot"),
    "a character repeated by bytes": ("SELECT printf(x'252e32303030303030303030' || 'c', 'x'), printf(x'252e3230303030303030303063', 'x')", "printf cannot"),
    "NUL": ("SELECT 1\x00; DELETE FROM towns", "null character"),
})  # fmt: skip

CODE: Attacks = {
    f"{kind}: {name}": attack
    for kind, attacks in {"calculator": CALCULATOR, "python": PYTHON, "sqlite": SQL}.items()
    for name, attack in attacks.items()
}
