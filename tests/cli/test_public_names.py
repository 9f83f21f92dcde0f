"""What the package promises: its names, what an import costs, how its modules hang together."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import agentopd

ROOT = Path(__file__).parents[2]
SOURCES = {
    ".".join(["agentopd", *path.relative_to(ROOT / "agentopd").with_suffix("").parts]).removesuffix(".__init__"): path
    for path in (ROOT / "agentopd").rglob("*.py")
} | {
    ".".join(["agentopd", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for folder in ("envs", "tools", "configs")
    for path in (ROOT / folder).rglob("*.py")
}  # fmt: skip


@pytest.mark.parametrize("name", agentopd.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(agentopd, name) is not None
    assert name in dir(agentopd)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = agentopd.Trainer


def test_an_environment_does_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import agentopd\n"
        "class Mine(agentopd.TextEnv):\n"
        "    def start(self):\n        return 'Guess'\n"
        "    @agentopd.tool\n    def guess(self, number: int) -> str:\n        '''Guess.'''\n        return 'no'\n"
    )
    code = "import sys, mine; heavy = {'torch', 'transformers', 'pyarrow'} & sys.modules.keys(); sys.exit(str(heavy) if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_agentopd_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentopd", "methods", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("agentopd: ConfigError: method: no recipe is called 'nothing'")


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of ours that ``module`` imports while it is being imported itself."""
    found: set[str] = set()
    for node in _executed(ast.parse(SOURCES[module].read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {inner if (inner := f"{node.module}.{a.name}") in SOURCES else node.module for a in node.names}
    return frozenset(found & SOURCES.keys() - {module})


def _executed(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that an import runs: not those in functions, nor those for type checkers alone."""
    statements: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            statements += _executed(node.orelse)
            continue
        statements.append(node)
        for inner in ("body", "orelse", "finalbody"):
            statements += _executed(getattr(node, inner, []))
    return statements


def test_the_walk_sees_the_modules() -> None:
    assert "agentopd.training.loop.river" in imports("agentopd.training.loop.trainer")
    assert "agentopd.training.loop.trainer" in imports("agentopd.training.run.whole")


def test_no_import_circle() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in finished:
            for other in sorted(imports(module)):
                visit(other, (*path, module))
            finished.add(module)

    for module in sorted(SOURCES):
        visit(module, ())


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("checks", set()),
        ("show", set()),
        ("loop", {"checks", "show"}),
        ("run", {"checks", "show", "loop"}),
        ("annotating", {"checks", "show", "loop", "run"}),
        ("replaying", {"checks", "show", "loop", "run"}),
    ],
)
def test_the_rooms_of_training_import_only_those_below(room: str, allowed: set[str]) -> None:
    of_each = [imports(module) for module in SOURCES if module.startswith(f"agentopd.training.{room}.")]
    found = {other.split(".")[2] for one in of_each for other in one if other.startswith("agentopd.training.")}
    assert of_each
    assert found - {room} == allowed


def test_no_file_is_longer_than_400_lines() -> None:
    folders = ("agentopd", "envs", "tools", "configs", "benchmarks", "tests")
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for f in folders for p in (ROOT / f).rglob("*.py")}
    assert len(lengths) > 100
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}
