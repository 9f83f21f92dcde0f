"""Files inside installed Python packages, written ``package:file``."""

import importlib.util
import re
from pathlib import Path

INSTALLED = re.compile(r"(?P<package>[A-Za-z_]\w+(?:\.\w+)*):(?P<file>[^:]+)")


def folders_of(package: str) -> list[Path]:
    """Where the files of an installed package lie; none where it is not installed. It is not imported for it, what is above it is."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # a parent that is missing, or no package
        return []
    return [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
