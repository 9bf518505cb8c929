"""The files beside those that are read: counted by extension and named, so that none is missed."""

import os

from pydantic import BaseModel, ConfigDict

_EXAMPLES = 3


class OtherFiles(BaseModel):
    """Files of a folder that are left out, because they are not what is read from it.

    Attributes:
        by_extension: Their number by extension in lower case, "" for none.
        examples: Names of a few of them.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    by_extension: dict[str, int] = {}
    examples: list[str] = []

    def note(self, name: str) -> None:
        """Count a file, unless it is hidden or a writer's marker such as _SUCCESS."""
        if name.rsplit("/", 1)[-1].startswith((".", "_")):
            return
        found = extension_of(name)
        if found not in self.by_extension and len(self.examples) < _EXAMPLES:
            self.examples.append(name)
        self.by_extension[found] = self.by_extension.get(found, 0) + 1

    def __len__(self) -> int:
        """Return the number of files."""
        return sum(self.by_extension.values())

    def __str__(self) -> str:
        """Describe them, as in "312 files left out: 300 .txt, 12 without an extension"."""
        by_count = sorted(self.by_extension.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{n:,} {kind or 'without an extension'}" for kind, n in by_count)
        files = "file" if len(self) == 1 else "files"
        examples = ", ".join(map(repr, self.examples))
        return f"{len(self):,} {files} left out: {kinds}, such as {examples}"


def extension_of(name: str) -> str:
    """Return the extension of a file's name in lower case, with its dot; "" for none."""
    return os.path.splitext(name.rsplit("/", 1)[-1])[1].lower()
