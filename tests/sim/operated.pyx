"""What operators and bad disks do to the in-memory cluster. It judges nothing."""
from libc.stdint cimport uint64_t

from dengine._core.restore cimport renew
from dengine._core.types cimport PAGE
from tests.sim.disk cimport Disk
from tests.sim.nodes cimport SimNode

from dengine._core import boot, change
from dengine.errors import RequestError, UnavailableError
from dengine.judge import Examination
from tests.sim.nodes import PATH
from tests.torture.start import names_of, reader_of

META = PATH + "/meta"


cdef class Operated(Network):
    def ask_transfer(self, int i, uint64_t to=0):
        """Node i is asked to hand over the lead: to node id `to`, 0: to the one ahead."""
        cdef SimNode node = <SimNode>self.nodes[i]
        to = boot.transfer(node.turn, to)
        self.tell(f"node {i + 1} is to hand over to node {to}")
        return self.run_node(node)

    def transfer(self, int i, uint64_t to=0):
        """Likewise, where it can; False: it refused."""
        if not (<SimNode>self.nodes[i]).alive:
            return False
        try:
            self.ask_transfer(i, to)
        except (RequestError, UnavailableError) as error:
            self.tell(f"node {i + 1}: {error}")
            self.count("transfer refused")
            return False
        self.count("transfer begun")
        return True

    def ask_change(self, int i, str what, int node, bint promote=True):
        """Node i is asked to add, promote, remove or replace the node of that index."""
        cdef SimNode asked = <SimNode>self.nodes[i]
        change.change(asked.turn, what, node + 1, b"node:%d" % (node + 1), promote)
        self.tell(f"node {i + 1} begins to {what} node {node + 1}")
        return self.run_node(asked)

    def change(self, int i, str what, int node, bint promote=True):
        """Likewise, where it can; False: it refused."""
        if not (<SimNode>self.nodes[i]).alive:
            return False
        try:
            self.ask_change(i, what, node, promote)
        except (RequestError, UnavailableError) as error:
            self.tell(f"node {i + 1}: {error}")
            self.count(f"{what} refused")
            return False
        self.count(f"{what} begun")
        return True

    def members(self, int i):
        """{index: role} of the members as living node i knows them."""
        return {row["id"] - 1: row["role"]
                for row in change.members((<SimNode>self.nodes[i]).turn)}

    def wipe(self, int i):
        """A dead node loses its directory: it would start empty, as another incarnation."""
        cdef SimNode node = <SimNode>self.nodes[i]
        self.format(node)
        node.setup.incarnation = self.draw(1 << 60) + 1
        if i == 0 and self.first == 1:          # its file names another: it forms no cluster
            node.setup.joins = True
            node.setup.members = [(2, b"node:2"), (1, b"node:1")]
        self.checks.forget(i)
        self.checks.owns(i, node.setup.incarnation)

    def is_forgotten(self, int i):
        """Is the directory of node i no member any more, for good?"""
        return not self.checks.is_member((<SimNode>self.nodes[i]).setup.incarnation)

    def anything_lost(self):
        """Have members lost what they once held, and not got it back?"""
        return self.checks.anything_lost()

    def put_back(self, int i, disk, uint64_t incarnation):
        """A dead node gets a directory that it had before."""
        cdef SimNode node = <SimNode>self.nodes[i]
        node.disk = disk
        node.setup.incarnation = incarnation
        self.checks.disks[i] = node.disk.state
        self.checks.returns(i, incarnation)

    def damage(self, int i, uint64_t index, uint64_t epoch, uint64_t bit):
        """A bit goes bad on the disk of a dead node, in the record of entry `index`."""
        self.count("bit flip in a record")
        (<SimNode>self.nodes[i]).disk.flip(f"{PATH}/log/{epoch:016x}.seg", bit)
        self.checks.damaged(i, index)

    def damage_snapshot(self, int i, str name not None, uint64_t bit, bint only):
        """A bit goes bad in a snapshot of a dead node; `only`: nothing else makes that state."""
        self.count("bit flip in a snapshot")
        (<SimNode>self.nodes[i]).disk.flip(f"{PATH}/snapshot/{name}", bit)
        if only:
            self.checks.damaged(i, 1)

    def lose_meta(self, int i, uint64_t bit, bint gone):
        """The hard state of a dead node goes bad in both copies, or its file is gone."""
        cdef Disk disk = (<SimNode>self.nodes[i]).disk
        self.count("hard state lost")
        if gone:
            disk.remove(META)
        else:
            disk.flip(META, bit)
            disk.flip(META, 8 * PAGE + bit)

    def rejoin(self, int i):
        """What `dengine rejoin` makes of it, where all others say which terms there were. Does the
        node have a hard state?"""
        cdef SimNode node = <SimNode>self.nodes[i]
        cdef SimNode other
        cdef uint64_t term, start = 0
        found = Examination(reader_of(node.disk), PATH.encode()).judge(*names_of(node.disk))
        if found.meta is not None and found.term <= found.meta["term"]:
            return True
        term = found.term
        for other in self.nodes:
            if other is not node and self.checks.is_member(other.setup.incarnation):
                if not other.alive or other.turn.raft.config_index == 0:
                    return False
                term = max(term, other.turn.raft.saved_term)
                slot = other.turn.slot_by_id(i + 1)
                if slot >= 0:
                    start = max(start, other.turn.peers[slot].start)
        self.count("rejoined")
        renew(&node.disk.io, PATH.encode(), node.setup, term, start)
        self.checks.renewed(i, term)
        return True
