"""Frames of the peer protocol. It knows their fields; it knows no connections and no meaning."""
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from dengine._core.codec cimport Reader, read_from, take_u16, take_u32, take_u64
from dengine._core.crc cimport crc32c
from dengine._core.consensus cimport MSG_DURABLE, MSG_HEARD, MSG_TIMEOUT_NOW, MSG_VOTE
from dengine._core.memory cimport grown
from dengine._core.types cimport FRAME_MAX

cdef enum:
    LENGTH = 4                  # bytes of the length field, not counted in it
    CRC_FROM = 8                # the crc covers what follows it


cdef packed struct AppendFields:
    uint64_t index
    uint64_t index_term
    uint32_t prev_crc
    uint64_t commit
    uint64_t round
    uint64_t last
    uint32_t count


cdef int frame_check(const char *p, size_t n, Frame *out, size_t *used) noexcept nogil:
    cdef FrameHeader h
    cdef uint32_t length
    used[0] = 0
    if n < LENGTH:
        return FRAME_PART
    memcpy(&length, p, LENGTH)
    if length < FRAME_HEADER - LENGTH or length > FRAME_MAX:
        return FRAME_LENGTH
    used[0] = LENGTH + <size_t>length
    if n < used[0]:
        return FRAME_PART
    memcpy(&h, p, FRAME_HEADER)
    if crc32c(p + CRC_FROM, used[0] - CRC_FROM, 0) != h.crc:
        return FRAME_CRC
    if h.kind < FRAME_HELLO or h.kind > FRAME_NAMED or h.zero != 0:
        return FRAME_UNKNOWN
    out.kind = h.kind
    out.flags = h.flags
    out.term = h.term
    out.body = p + FRAME_HEADER
    out.size = used[0] - FRAME_HEADER
    return FRAME_OK


cdef class Outbox:
    def __cinit__(self):
        self.data = NULL
        self.capacity = 0
        self.clear()

    def __dealloc__(self):
        free(self.data)

    cdef void clear(self) noexcept:
        self.size = 0
        self.total = 0
        self.splices = 0
        self.spliced = 0

    cdef int reserve(self, size_t n) except -1:
        if self.size + n > self.capacity:
            self.data = <char *>grown(self.data, self.size + n, &self.capacity, 1, 4096)
        return 0

    cdef int put(self, const void *p, size_t n) except -1:
        self.reserve(n)
        memcpy(self.data + self.size, p, n)
        self.size += n
        self.total += n
        return 0

    cdef int put_u16(self, uint16_t x) except -1:
        return self.put(&x, sizeof(x))

    cdef int put_u32(self, uint32_t x) except -1:
        return self.put(&x, sizeof(x))

    cdef int put_u64(self, uint64_t x) except -1:
        return self.put(&x, sizeof(x))

    cdef int begin(self, uint8_t kind, uint8_t flags, uint64_t term) except -1:
        cdef FrameHeader h
        memset(&h, 0, sizeof(h))
        h.kind = kind
        h.flags = flags
        h.term = term
        self.opened = self.size
        self.spliced = 0
        self.spliced_from = self.splices
        return self.put(&h, FRAME_HEADER)

    cdef int end(self) except -1:
        """Fills in length and crc of the open frame, over own and borrowed pieces in order."""
        cdef uint32_t length = <uint32_t>(self.size - self.opened + self.spliced - LENGTH)
        cdef size_t at = self.opened + CRC_FROM
        cdef uint32_t crc = 0
        cdef int i
        for i in range(self.spliced_from, self.splices):
            crc = crc32c(self.data + at, self.splice_at[i] - at, crc)
            crc = crc32c(self.splice[i], self.splice_size[i], crc)
            at = self.splice_at[i]
        crc = crc32c(self.data + at, self.size - at, crc)
        memcpy(self.data + self.opened, &length, 4)
        memcpy(self.data + self.opened + LENGTH, &crc, 4)
        return 0

    cdef bint has_room(self, int pieces) noexcept:
        return self.splices + pieces <= PARTS

    cdef int borrow(self, const char *p, size_t n) noexcept:
        self.splice_at[self.splices] = self.size
        self.splice[self.splices] = p
        self.splice_size[self.splices] = n
        self.splices += 1
        self.spliced += n
        self.total += n
        return 0

    cdef int gather(self) noexcept:
        cdef size_t at = 0
        cdef int i, n = 0
        for i in range(self.splices):
            if self.splice_at[i] > at:
                self.parts[n].iov_base = self.data + at
                self.parts[n].iov_len = self.splice_at[i] - at
                at = self.splice_at[i]
                n += 1
            self.parts[n].iov_base = <void *>self.splice[i]
            self.parts[n].iov_len = self.splice_size[i]
            n += 1
        if self.size > at:
            self.parts[n].iov_base = self.data + at
            self.parts[n].iov_len = self.size - at
            n += 1
        return n

    # ------------------------------------------------------------------------------------ frames
    cdef int message(self, const Message *m) except -1:
        self.begin(m.kind, m.flags, m.term)
        if m.kind == MSG_VOTE or m.kind == MSG_TIMEOUT_NOW:
            self.put_u64(m.index)
            self.put_u64(m.index_term)
        elif m.kind == MSG_HEARD:
            self.put_u64(m.round)
            self.put_u64(m.index)
            self.put_u64(m.index_term)
        elif m.kind == MSG_DURABLE:
            self.put_u64(m.index)
        return self.end()

    cdef int append(self, const Message *m, uint32_t prev_crc) except -1:
        cdef AppendFields a
        a.index = m.index
        a.index_term = m.index_term
        a.prev_crc = prev_crc
        a.commit = m.commit
        a.round = m.round
        a.last = m.last
        a.count = <uint32_t>m.count
        self.begin(FRAME_APPEND, m.flags, m.term)
        return self.put(&a, sizeof(a))

    cdef int hello(self, const Hello *h) except -1:
        self.begin(FRAME_HELLO, BULK if h.bulk else 0, 0)
        self.put_u16(h.protocol)
        self.put_u64(h.cluster)
        self.put_u64(h.node)
        self.put_u64(h.incarnation)
        self.put_u64(h.to)
        self.put_u64(h.last)
        self.put_u64(h.start)
        self.put_u64(h.nonce)
        self.put_u64(h.config)
        return self.end()


cdef int hello_decode(const Frame *f, Hello *out) noexcept nogil:
    cdef Reader r
    read_from(&r, f.body, f.size)
    out.protocol = take_u16(&r)
    out.cluster = take_u64(&r)
    out.node = take_u64(&r)
    out.incarnation = take_u64(&r)
    out.to = take_u64(&r)
    out.last = take_u64(&r)
    out.start = take_u64(&r)
    out.nonce = take_u64(&r)
    out.config = take_u64(&r)
    out.bulk = f.flags == BULK
    return -1 if r.bad or f.flags & ~BULK or (r.at != r.end and out.protocol == PROTOCOL) else 0


cdef int piece_decode(const Frame *f, PieceFields *out) noexcept nogil:
    cdef Reader r
    read_from(&r, f.body, f.size)
    out.index = take_u64(&r)
    out.header_crc = take_u32(&r)
    out.offset = take_u64(&r)
    out.bytes = <const char *>r.at
    out.size = r.end - r.at
    return -1 if r.bad else 0


cdef int message_decode(const Frame *f, uint64_t peer, Message *out) noexcept nogil:
    cdef Reader r
    read_from(&r, f.body, f.size)
    memset(out, 0, sizeof(Message))
    out.kind = f.kind
    out.flags = f.flags
    out.peer = peer
    out.term = f.term
    if f.kind == FRAME_VOTE or f.kind == FRAME_TIMEOUT_NOW:
        out.index = take_u64(&r)
        out.index_term = take_u64(&r)
    elif f.kind == FRAME_HEARD:
        out.round = take_u64(&r)
        out.index = take_u64(&r)
        out.index_term = take_u64(&r)
    elif f.kind == FRAME_DURABLE:
        out.index = take_u64(&r)
    elif f.kind != FRAME_VOTED:
        return -1
    return -1 if r.bad or r.at != r.end or out.term == 0 else 0


cdef int append_decode(const Frame *f, uint64_t peer, Message *out, uint32_t *prev_crc,
                       const char **records, size_t *size) noexcept nogil:
    cdef Reader r
    read_from(&r, f.body, f.size)
    memset(out, 0, sizeof(Message))
    out.kind = f.kind
    out.flags = 0
    out.peer = peer
    out.term = f.term
    out.index = take_u64(&r)
    out.index_term = take_u64(&r)
    prev_crc[0] = take_u32(&r)
    out.commit = take_u64(&r)
    out.round = take_u64(&r)
    out.last = take_u64(&r)
    out.count = take_u32(&r)
    if (r.bad or out.term == 0 or out.index_term > out.term
            or out.last < out.index or out.last - out.index < out.count):
        return -1
    records[0] = <const char *>r.at
    size[0] = r.end - r.at
    return -1 if (out.count == 0) != (size[0] == 0) else 0
