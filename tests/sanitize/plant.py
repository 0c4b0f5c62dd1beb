"""Makes one fault on purpose, so that a build that would not notice it is noticed."""
import sys

from tests.sanitize.races import PLANTS, misaligned, over_read, run, use_after_free

FAULTS = {"over-read": over_read, "use-after-free": use_after_free, "misaligned": misaligned}

if __name__ == "__main__":
    name = sys.argv[1]
    if name in FAULTS:
        FAULTS[name](33)
    else:
        assert name in PLANTS
        run(1.0, 1, name)
