"""One process of a cluster of PySyncObj, and the closed loop inside the one that leads.

    python benchmarks/pysyncobj_node.py ID ADDRESS...

takes orders as children.py says. Each put is a replicated command on a dict; `clients` of them are
under way at once, and the next goes out when one was applied. PySyncObj sends in a thread of its
own, every 50 ms unless it is told otherwise; what it acknowledges is in memory (its journal file is
never synced, so it is off here).
"""

import json
import sys
import threading
import time
from array import array
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pysyncobj import SyncObj
from pysyncobj.batteries import ReplDict

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.client import Load
from benchmarks.common import Figure

WAIT_S = 20.0
POLL_S = 0.01


class Loop:
    """A closed loop of callbacks, which come in PySyncObj's thread."""

    def __init__(self, target: ReplDict, load: Load) -> None:
        self.target = target
        self.load = load
        self.names = list(load.names())
        self.next = 0
        self.latencies = array("Q")             # nanoseconds
        self.errors = 0
        self.open = load.clients
        self.end = 0.0
        self.done = threading.Event()

    def put(self) -> None:
        key = self.names[self.next % len(self.names)]
        self.next += 1
        self.target.set(key, self.load.value,
                        callback=partial(self.applied, time.perf_counter_ns()))

    def applied(self, began: int, _result: object, error: object) -> None:
        self.latencies.append(time.perf_counter_ns() - began)
        self.errors += bool(error)
        if time.perf_counter() < self.end:
            self.put()
        else:
            self.open -= 1
            if not self.open:
                self.done.set()

    def run(self) -> Figure:
        began = time.perf_counter()
        self.end = began + self.load.seconds
        for _ in range(self.load.clients):
            self.put()
        if not self.done.wait(self.load.seconds + WAIT_S):
            raise TimeoutError("PySyncObj answered not all puts")
        return Figure.of(self.latencies, time.perf_counter() - began, self.errors)


def main() -> None:
    own, *addresses = int(sys.argv[1]), *sys.argv[2:]
    here = addresses[own]
    state = ReplDict()
    node = SyncObj(here, [a for a in addresses if a != here], consumers=[state])
    deadline = time.monotonic() + WAIT_S

    def leader() -> int:
        while (found := node._getLeader()) is None or not node.isReady():
            if time.monotonic() > deadline:
                raise TimeoutError("PySyncObj has no leader")
            time.sleep(POLL_S)
        return addresses.index(str(found))

    print(json.dumps({"leader": leader()}), flush=True)
    for order in sys.stdin:
        figure = Loop(state, Load(**json.loads(order))).run()
        print(json.dumps({"leader": leader(), "figure": asdict(figure)}), flush=True)
    node.destroy()


if __name__ == "__main__":
    main()
