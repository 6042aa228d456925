"""What the tests share. Nothing here is a test."""

from pathlib import Path

#: The repository.
ROOT = Path(__file__).parent.parent.parent

#: Where the examples' packages are.
EXAMPLES = ROOT / "examples"
