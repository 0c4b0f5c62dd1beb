"""`dengine` and `python -m dengine`: the command line, which lives in dengine.cli."""

from dengine.cli import root


def main() -> None:
    root(prog_name="dengine")


if __name__ == "__main__":
    main()
