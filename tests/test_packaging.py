"""What a wheel holds is what is on disk."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_shipped() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    homes = {ROOT / folder: package for package, folder in setuptools["package-dir"].items()}
    found = {
        ".".join([package, *file.parent.relative_to(home).parts])
        for home, package in homes.items()
        for file in home.rglob("*")
        if file.suffix in {".py", ".yaml"}
    }
    assert found == set(setuptools["packages"])
