"""Makes a failing plan short: fewer faults, clients and less time, while it still fails alike."""
from __future__ import annotations

import re
import time
from collections.abc import Callable
from copy import deepcopy

from tests.sim.plan import Plan
from tests.sim.run import run


def kind(error: BaseException) -> str:
    """What went wrong, without the numbers."""
    return re.sub(r"\d+|b'[^']*'", "#", f"{type(error).__name__} {error}")[:60]


def fails(p: Plan) -> BaseException | None:
    try:
        run(p)
    except Exception as error:
        return error
    return None


def shrink(p: Plan, error: BaseException, seconds: float = 60,
           tell: Callable[[str], None] = lambda line: None) -> tuple[Plan, BaseException]:
    """The shortest plan found within `seconds` that fails in the same way, and its error."""
    wanted, until = kind(error), time.monotonic() + seconds
    best, worst = p, error

    def tried(q: Plan) -> bool:
        nonlocal best, worst
        if time.monotonic() > until:
            return False
        found = fails(q)
        if found is None or kind(found) != wanted:
            return False
        best, worst = q, found
        tell(f"{len(q.faults)} faults, {q.sessions} clients, {q.load_ms} ms")
        return True

    ended = getattr(error, "run", None)
    if ended is not None and ended.cluster.now_us // 1000 + 1 < p.load_ms:
        q = deepcopy(best)
        q.load_ms = ended.cluster.now_us // 1000 + 1
        q.faults = [f for f in q.faults if f.at_ms < q.load_ms]
        tried(q)
    chunk = max(1, len(best.faults) // 2)
    while time.monotonic() < until:
        at, removed = 0, False
        while at < len(best.faults):
            q = deepcopy(best)
            del q.faults[at:at + chunk]
            if tried(q):
                removed = True
            else:
                at += chunk
        if chunk == 1 and not removed:
            break
        chunk = max(1, chunk // 2)
    for field, values in (("standing", ("none",)), ("mangle", ([0.0] * 4,)), ("sessions", (1, 3)),
                          ("keys", (1, 2)), ("drift_ppm", (0,)), ("large", (False,)),
                          ("nodes", (3,))):
        for value in values:
            if getattr(best, field) != value and (field != "nodes" or best.nodes > 3):
                q = deepcopy(best)
                setattr(q, field, value)
                q.faults = [f for f in q.faults if f.target < q.nodes]
                if tried(q):
                    break
    return best, worst
