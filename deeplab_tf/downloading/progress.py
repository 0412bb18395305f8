"""A file that is not whole yet: its bytes, and what they are a part of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path


@dataclasses.dataclass
class Progress:
    """FILE.part, and FILE.part.json with what the server said of it.

    Attributes:
      path: of FILE.part.
      validator: ETag or date by which the server knows the file again, or "".
      total: size of the whole file, or None.
    """

    path: Path
    validator: str = ""
    total: int | None = None

    @property
    def notes(self) -> Path:
        return Path(f"{self.path}.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self) -> None:
        """Reads the notes of an earlier run; without them there is nothing to keep."""
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            self.validator, self.total = notes["validator"], notes["total"]
        except (OSError, ValueError, KeyError, TypeError):
            self.remove()

    def start(self, offset: int, validator: str, total: int | None) -> None:
        """Cuts the file to `offset` bytes and notes what it is a part of."""
        with open(self.path, "ab") as file:
            file.truncate(offset)
        self.validator, self.total = validator, total
        notes = {"validator": validator, "total": total}
        self.notes.write_text(json.dumps(notes), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)
        self.validator, self.total = "", None
