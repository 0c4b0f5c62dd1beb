"""Plays scenario files: prints what they give now, or with --update writes it into them.

    python -m tests.scenarios [--update] FILE...
"""
import sys
from pathlib import Path

from tests.scenarios.play import Failure, play


def main(update: bool, files: list[str]) -> None:
    for path in map(Path, files):
        lines = []
        try:
            for line in play(path):
                lines.append(line)
                if not update:
                    print(line)
        except Failure as failure:
            sys.exit(str(failure))
        if update:
            path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main("--update" in sys.argv, [name for name in sys.argv[1:] if name != "--update"])
