"""Which files count as the code of an environment."""

import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from agentopd.training.run.code import digests

TREE = {
    "shop_project/__init__.py": "",
    "shop_project/envs/__init__.py": "from ..goods import GOODS",
    "shop_project/envs/shop.py": (
        "import json, numpy\nimport shop_words.greeting as greeting\nfrom . import till\nfrom ..prices import table\n"
        "def later():\n    import shop_late\n"
    ),
    "shop_project/envs/till.py": "from shop_project.envs import shop",  # a circle
    "shop_project/prices/table.py": "",  # in a folder without __init__
    "shop_project/prices/unused.py": "",
    "shop_project/goods.py": "GOODS = ()",
    "shop_words/__init__.py": "from agentopd.tools import calculator",
    "shop_words/greeting.py": "",
    "shop_late.py": "this is no Python",
    "shop_unused.py": "",
}


def _imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, text in TREE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        monkeypatch.delitem(sys.modules, name)
    return digests(importlib.import_module("shop_project.envs.shop"))


def test_imports_are_followed_within_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _imported(tmp_path, monkeypatch)
    assert found.keys() == {
        "shop_project", "shop_project.envs", "shop_project.envs.shop", "shop_project.envs.till", "shop_project.goods",
        "shop_project.prices.table", "shop_words", "shop_words.greeting", "shop_late",
    }  # fmt: skip
    assert found["shop_project.goods"] == hashlib.sha256(b"GOODS = ()").hexdigest()


def test_of_an_installed_package_only_the_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _imported(tmp_path / "site-packages", monkeypatch).keys() == {"shop_project.envs.shop"}


def test_a_shipped_environment_counts_with_the_tools_it_uses() -> None:
    found = digests(importlib.import_module("agentopd.envs.checkout"))
    assert found.keys() == {"agentopd.envs.checkout", "agentopd.tools", "agentopd.tools.calculator"}


def test_a_module_without_a_file_has_no_code() -> None:
    assert digests(sys) == {}
