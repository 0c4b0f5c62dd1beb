"""Functions and structs of the core as Python sees them, for tests that go byte by byte."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

cimport dengine._core.codec as codec
from dengine._core.codec cimport (REGISTER, Command, command_decode, padded, record_check,
                                  record_encode)
from dengine._core.consensus cimport Message
from dengine._core.kernel cimport kernel
from dengine._core.members cimport Members, encode_members, fill_member, members_decode
from dengine._core.quorum cimport Config, quorum_has, quorum_value
from dengine._core.request cimport under
from dengine._core.terms cimport Terms
from dengine._core.transfer cimport Offer, Transfer
from dengine._core.types cimport MAX_MEMBERS, RECORD_HEADER
from dengine._core.wire cimport (FRAME_APPEND, FRAME_HELLO, FRAME_OK, Frame, Hello, Outbox,
                                 PieceFields, append_decode, frame_check, hello_decode,
                                 message_decode)
from dengine._core.worker cimport Worker


# --------------------------------------------------------------------------- commands and records
def encode_put(bytes key not None, bytes value not None) -> bytes:
    return codec.encode_put(key, value)


def encode_delete(bytes key not None) -> bytes:
    return codec.encode_delete(key)


def encode_put_if(bytes key not None, bytes value not None, int compare,
                  uint64_t revision) -> bytes:
    return codec.encode_put_if(key, value, compare, revision)


def encode_delete_if(bytes key not None, int compare, uint64_t revision) -> bytes:
    return codec.encode_delete_if(key, compare, revision)


def decode_command(bytes data not None):
    """(op, session, sequence, floor, compare, revision, key, value) of a command; ValueError."""
    cdef Command c
    cdef int bad
    memset(&c, 0, sizeof(c))
    bad = command_decode(data, len(data), &c)
    if bad:
        raise ValueError("not a command" if bad == -1 else f"an op of a newer format: {c.op}")
    if c.op == REGISTER:
        return c.op, c.session, c.sequence, c.floor, c.node, c.incarnation, c.nonce, None
    return (c.op, c.session, c.sequence, c.floor, c.compare, c.revision, c.key[:c.key_size],
            c.value[:c.value_size] if c.value != NULL else None)


def idempotency_of(bytes data not None):
    """(hash of its Idempotency-Key, of the request) of a command; None: it has none."""
    cdef Command c
    memset(&c, 0, sizeof(c))
    if command_decode(data, len(data), &c) or not c.keyed:
        return None
    return (<const char *>c.idempotency)[:sizeof(c.idempotency)], c.print


def keyed(bytes command not None, bytes key not None):
    """The command under this Idempotency-Key, as HTTP makes it."""
    return under(key, command)


def encode_record(uint64_t term, uint64_t index, uint8_t kind, bytes payload not None,
                  uint32_t crc):
    """One padded record that continues the chain at `crc`."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, padded(RECORD_HEADER + len(payload)))
    record_encode(PyBytes_AS_STRING(out), term, index, kind, payload, len(payload), crc)
    return out


def check_record(bytes data not None, uint64_t index, uint64_t term, uint32_t crc):
    """The RecordFault of `data` as the record `index` after (term, crc)."""
    return record_check(data, len(data), index, term, crc)


def roundtrip_members(bytes data not None):
    """Decodes and encodes a configuration; ValueError."""
    cdef Members m
    if members_decode(data, len(data), &m):
        raise ValueError("not a configuration")
    return encode_members(&m)


def build_members(list members not None, uint32_t promise_ms):
    """The payload of a configuration entry of (id, incarnation, flags, address) rows."""
    cdef Members m
    cdef int i = 0
    memset(&m, 0, sizeof(m))
    m.count = len(members)
    m.promise_ms = promise_ms
    for node, incarnation, flags, address in members:
        fill_member(&m, i, node, incarnation, flags, address)
        i += 1
    return encode_members(&m)


# ------------------------------------------------------------------------------------------ frames
def check_frame(bytes data not None):
    """(fault, kind, flags, term, body, used) of the first frame of `data`."""
    cdef Frame f
    cdef size_t used
    memset(&f, 0, sizeof(f))
    cdef int fault = frame_check(data, len(data), &f, &used)
    body = PyBytes_FromStringAndSize(f.body, f.size) if fault == FRAME_OK else b""
    return fault, f.kind, f.flags, f.term, body, used


def decode_fields(bytes data not None):
    """Whatever the first frame holds, decoded; None where its fields are not what its kind says."""
    cdef Frame f
    cdef Hello h
    cdef Message m
    cdef size_t used, size
    cdef uint32_t crc
    cdef const char *records
    if frame_check(data, len(data), &f, &used) != FRAME_OK:
        return None
    if f.kind == FRAME_HELLO:
        return None if hello_decode(&f, &h) else (h.protocol, h.cluster, h.node, h.incarnation,
                                                  h.to, h.last, h.start, h.nonce,
                                                  h.config)
    if f.kind == FRAME_APPEND:
        if append_decode(&f, 1, &m, &crc, &records, &size):
            return None
        return (m.index, m.index_term, crc, m.commit, m.round, m.last, m.count,
                PyBytes_FromStringAndSize(records, size))
    if message_decode(&f, 1, &m):
        return None
    return m.index, m.index_term, m.round


def build_frame(uint8_t kind, uint8_t flags, uint64_t term, bytes body not None):
    """One frame with the given body."""
    cdef Outbox box = Outbox()
    box.begin(kind, flags, term)
    box.put(PyBytes_AS_STRING(body), len(body))
    box.end()
    return PyBytes_FromStringAndSize(box.data, box.size)


def served(list turns not None):
    """Turns of a leader of which a follower asks the next piece of a snapshot each time, as (now in
    us, last entry): in which of them is one read?"""
    cdef Transfer t = Transfer()
    cdef PieceFields asked
    cdef list out = []
    memset(&asked, 0, sizeof(asked))
    t.open(kernel(), b"/nowhere", [], 1, Worker())
    for now_us, last in turns:
        t.ask(1, 1, &asked, now_us)
        t.serve(now_us, last)
        out.append(t.asking == 0)
    return out


def asked(bytes directory not None, list moments not None):
    """A follower that is offered a snapshot at each of these times (us), and gets no piece: does it
    ask for one then?"""
    cdef Transfer t = Transfer()
    cdef Offer offer
    memset(&offer, 0, sizeof(offer))
    offer.index = 7
    offer.size = 1 << 20
    t.open(kernel(), directory, [], 1, Worker())
    out = [t.offered(&offer, 0, now_us) for now_us in moments]
    t.close()
    return out


# --------------------------------------------------------------------------------- quorums, terms
def quorum_of(uint32_t voters, uint32_t outgoing, list values):
    """(highest value a quorum reaches, slots that have it form a quorum)."""
    cdef Config c
    cdef uint64_t value[MAX_MEMBERS]
    cdef uint32_t slots = 0
    cdef int i
    memset(&c, 0, sizeof(c))
    c.count = len(values)
    c.voters = voters
    c.outgoing = outgoing
    for i in range(c.count):
        value[i] = values[i]
    cdef uint64_t reached = quorum_value(&c, value)
    for i in range(c.count):
        if value[i] >= reached:
            slots |= <uint32_t>1 << i
    return reached, quorum_has(&c, slots)


cdef class TermMap:
    """A Terms: the term of each index."""
    cdef Terms terms

    def __init__(self, uint64_t base=0, uint64_t base_term=0):
        self.terms = Terms(base, base_term)

    @property
    def last(self) -> int:
        return self.terms.last

    def extend(self, uint64_t term, uint64_t n=1):
        self.terms.append(term, n)

    def truncate(self, uint64_t to):
        self.terms.cut(to)

    def __getitem__(self, uint64_t index) -> int:
        return self.terms.at(index)

    def agreement(self, uint64_t index, uint64_t term) -> int:
        return self.terms.agree(index, term)
