"""Writes the transcripts: `python -m tests.protocol.transcripts --write`. Without --write it shows what would change.

Run it from the root of the repository, and read the difference as a reviewer does before it is committed.
"""

import sys

from .files import difference, path_of
from .scenarios import SCENARIOS, transcript


def main() -> None:
    for name in SCENARIOS:
        print("".join(difference(name)), end="")
        if "--write" in sys.argv[1:]:
            path_of(name).write_text(transcript(name), encoding="utf-8")


main()
