"""Makes one fault on purpose, so that a build that would not notice it is noticed."""
import sys

from tests.sanitize.races import PLANTS, misaligned, over_read, run, use_after_free

PATIENCE_S = 20.0       # until threads meet in the wrong moment, on a busy machine; mostly at once
FAULTS = {"over-read": over_read, "use-after-free": use_after_free, "misaligned": misaligned}

if __name__ == "__main__":
    name = sys.argv[1]
    if name in FAULTS:
        FAULTS[name](33)
    else:
        assert name in PLANTS
        run(PATIENCE_S, 1, name)
