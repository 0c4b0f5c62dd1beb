"""Runs the threads of races.pyx for a while, from a seed that grows; prints what they did."""
import argparse
import time

from tests.sanitize.races import run

SLICE_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    done: dict[str, int] = {}
    seed = args.seed
    while (left := until - time.monotonic()) > 0:
        for name, count in run(min(SLICE_S, left), seed).items():
            done[name] = done.get(name, 0) + count
        seed += 1
    print(f"seeds {args.seed} to {seed - 1}:", *(f"{n} {name}," for name, n in done.items()))
    empty = [name for name, count in done.items() if not count]
    assert not empty, f"nothing of {empty} happened: the run proves nothing"


if __name__ == "__main__":
    main()
