"""Runs seeds until one fails; prints which, after how many steps, and what its check said."""
import json
import re
import sys

from tests.sim.run import run


def main() -> None:
    steps = 0
    for seed in range(1, int(sys.argv[1]) + 1):
        try:
            steps += run(seed).cluster.steps
        except Exception as error:
            ended = getattr(error, "run", None)
            steps += ended.cluster.steps if ended is not None else 0
            said = f"{type(error).__name__}: {error}".split("[")[0].split("(")[0]
            said = re.sub(r"<[^>]*>|b'[^']*'", "it", said)
            print(json.dumps({"seeds": seed, "steps": steps, "check": re.sub(r"\d+", "N", said)}))
            return
    print(json.dumps({"seeds": None, "steps": steps, "check": ""}))


if __name__ == "__main__":
    main()
