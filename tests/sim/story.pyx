"""Frames in words, for traces and scenario files."""
from libc.stdint cimport uint32_t
from libc.string cimport memset

from dengine._core.consensus cimport DIVERGED, FORCED, GRANTED, PRE, REJECTED, Message
from dengine._core.wire cimport (FRAME_APPEND, FRAME_DURABLE, FRAME_HEARD, FRAME_HELLO,
                                 FRAME_VOTE, FRAME_VOTED, Hello, append_decode, hello_decode,
                                 message_decode)

NAMES = ("", "hello", "vote", "voted", "append", "heard", "durable", "forward", "refused", "read",
         "granted", "ping", "bye", "offer", "fetch", "piece", "timeout now",
         "named")


cdef str describe(const Frame *f):
    cdef Message m
    cdef Hello h
    cdef uint32_t crc
    cdef const char *records
    cdef size_t size
    cdef str name = NAMES[f.kind] if f.kind < len(NAMES) else f"kind {f.kind}"
    memset(&m, 0, sizeof(m))
    if f.kind == FRAME_HELLO:
        return name if hello_decode(f, &h) else f"hello, its log ends at {h.last}"
    if f.kind == FRAME_APPEND:
        if append_decode(f, 1, &m, &crc, &records, &size):
            return "an append that is none"
        what = f"{m.count} after {m.index} of term {m.index_term}" if m.count else (
            f"heartbeat after {m.index} of term {m.index_term}")
        return f"append in term {m.term}: {what}, commit {m.commit}, round {m.round}"
    if FRAME_VOTE <= f.kind <= FRAME_DURABLE and message_decode(f, 1, &m) == 0:
        if f.kind == FRAME_VOTE:
            how = "pre-vote" if f.flags & PRE else "forced vote" if f.flags & FORCED else "vote"
            return f"{how} asked for term {m.term}, log ends at {m.index} of term {m.index_term}"
        if f.kind == FRAME_VOTED:
            return (f"{'pre-vote' if f.flags & PRE else 'vote'} "
                    f"{'granted' if f.flags & GRANTED else 'refused'}, term {m.term}")
        if f.kind == FRAME_HEARD:
            if f.flags & DIVERGED:
                return f"heard round {m.round} of term {m.term}, its log diverged"
            if f.flags & REJECTED:
                return (f"heard round {m.round} of term {m.term}, rejected: the logs may agree up "
                        f"to {m.index} of term {m.index_term}")
            return f"heard round {m.round} of term {m.term}, up to {m.index}"
        what = ("rejected at" if f.flags & REJECTED else "diverged at" if f.flags & DIVERGED
                else "up to")
        return f"durable {what} {m.index} in term {m.term}"
    return f"{name} in term {f.term}"
