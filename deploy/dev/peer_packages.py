"""Where `make peers` has put Python packages of others."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "crates" / "testkit" / "python" / "packages"


def use() -> None:
    """Makes them importable."""
    if not (PACKAGES / ".installed").exists():
        sys.exit(f"{PACKAGES} is not there: run `make peers`.")
    sys.path.insert(0, str(PACKAGES))
