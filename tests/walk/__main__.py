"""Prints what a checkpoint, an output or a burst crosses: `python -m tests.walk WHAT [--engine NAME] [--json]`.

Run it from the root of the repository.
"""

import argparse
import json

from ftvm.engines.names import ENGINES

from .routes import Lost, walk_burst, walk_checkpoint, walk_output


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.walk", description="Follow one thing through a pair of hosts."
    )
    parser.add_argument("what", choices=("checkpoint", "output", "burst"))
    parser.add_argument(
        "--engine",
        choices=tuple(ENGINES),
        help="default: remus for a checkpoint, kemari for an output, hybrid for a burst: the answers to 16 requests",
    )
    parser.add_argument("--json", action="store_true", help="print the walk as JSON")
    options = parser.parse_args()
    walks = {
        "checkpoint": ("remus", walk_checkpoint),
        "output": ("kemari", walk_output),
        "burst": ("hybrid", walk_burst),
    }
    default, walk = walks[options.what]
    try:
        taken = walk(options.engine or default)
    except (Lost, ValueError) as wrong:
        parser.exit(1, f"{wrong}\n")
    print(json.dumps(taken.as_json(), indent=2) if options.json else taken.as_text())


main()
