"""Writes the golden bytes again: `python -m tests.golden --write`. Without --write it says what would change.

The rule: what a released version says never changes. wire-N.json of a version that a tag has (encode/versions.py) is
only ever added to, when a message is added; if another one of its goldens differs, the change is wrong: it needs
its own version. So do those of stored-1.json: what was kept by an older release must be readable.
"""

import sys

from .files import ALL, path_of, read_golden, write_golden


def main() -> None:
    for name, cases in ALL.items():
        kept = read_golden(name) if path_of(name).exists() else {}
        changed = [case for case, how in cases.items() if how.is_stable and kept.get(case) != how.write()]
        gone = [case for case in kept if case not in cases]
        if changed or gone:
            print(f"{path_of(name).name}: changed or new: {changed}, gone: {gone}")
        if "--write" in sys.argv[1:]:
            write_golden(name)


main()
