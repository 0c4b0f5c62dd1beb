"""Waiting reads, in batches. It knows tickets and indexes; raft decides when one is granted."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport calloc, free

from dengine._core.fault cimport MUTANT
from dengine._core.memory cimport grown
from dengine._core.types cimport LEASE, MISSING, OK, Item


cdef class Reads:
    def __cinit__(self):
        self.batches = NULL
        self.open_batch[0] = NULL
        self.open_batch[1] = NULL

    def __dealloc__(self):
        cdef size_t i, j
        for i in range(self.count):
            for j in range(self.batches[i].count):
                Py_DECREF(<object>self.batches[i].waiters[j])
            batch_free(self.batches[i])
        free(self.batches)

    cdef int add(self, Waiter waiter) except -1:
        cdef int policy = 1 if waiter.policy == LEASE else 0
        cdef Batch *b = self.open_batch[policy]
        if b == NULL:
            b = self.new_batch()
            b.policy = waiter.policy
            self.open_batch[policy] = b
        if b.count == b.capacity:
            b.waiters = <PyObject **>grown(b.waiters, b.count + 1, &b.capacity,
                                           sizeof(PyObject *), 4)
        Py_INCREF(waiter)
        b.waiters[b.count] = <PyObject *>waiter
        b.count += 1
        self.waiting += 1
        return 0

    cdef Batch *new_batch(self) except NULL:
        self.batches = <Batch **>grown(self.batches, self.count + 1, &self.capacity,
                                       sizeof(Batch *), 16)
        cdef Batch *b = <Batch *>calloc(1, sizeof(Batch))
        if b == NULL:
            raise MemoryError
        self.ticket += 1
        b.ticket = self.ticket
        self.batches[self.count] = b
        self.count += 1
        return b

    cdef void close_batches(self) noexcept:
        self.open_batch[0] = NULL
        self.open_batch[1] = NULL

    cdef Batch *find(self, uint64_t ticket) noexcept:
        cdef size_t i
        for i in range(self.count):
            if self.batches[i].ticket == ticket:
                return self.batches[i]
        return NULL

    cdef void granted(self, uint64_t ticket, uint64_t index) noexcept:
        cdef Batch *b = self.find(ticket)
        if b != NULL and b.index == 0:
            b.index = index

    cdef void refused(self, uint64_t ticket) noexcept:
        cdef Batch *b = self.find(ticket)
        if b != NULL and b.index == 0:
            b.asked_term = 0

    cdef int answer(self, uint64_t applied, KV kv, Results to) except -1:
        """Every granted batch whose index is applied is answered from the state as it is now."""
        cdef size_t i, j, kept = 0
        cdef Batch *b
        cdef Waiter waiter
        cdef const Item *item
        for i in range(self.count):
            b = self.batches[i]
            if b.index == 0 or (b.index > applied and not MUTANT(26)):
                self.batches[kept] = b
                kept += 1
                continue
            for j in range(b.count):
                waiter = <Waiter>b.waiters[j]
                item = kv.get(PyBytes_AS_STRING(waiter.key),
                              <unsigned int>PyBytes_GET_SIZE(waiter.key))
                to.add(b.waiters[j], MISSING if item == NULL else OK, kv.revision, item)
            self.waiting -= b.count
            batch_free(b)
        self.count = kept
        return 0

    cdef int expire(self, uint64_t now_us, int status, Results to) except -1:
        """Waiters past their deadline are told; now_us = UINT64_MAX tells all."""
        cdef size_t i, j, left, kept = 0
        cdef Batch *b
        for i in range(self.count):
            b = self.batches[i]
            left = 0
            for j in range(b.count):
                if (<Waiter>b.waiters[j]).deadline_us <= now_us:
                    to.add(b.waiters[j], status, 0, NULL)
                    self.waiting -= 1
                else:
                    b.waiters[left] = b.waiters[j]
                    left += 1
            b.count = left
            if left or b == self.open_batch[0] or b == self.open_batch[1]:
                self.batches[kept] = b
                kept += 1
            else:
                batch_free(b)
        self.count = kept
        return 0


cdef void batch_free(Batch *b) noexcept:
    free(b.waiters)
    free(b)
