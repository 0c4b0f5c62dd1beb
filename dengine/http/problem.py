"""Whole answers for ports where speed does not matter; each ends its connection.

The table of problems itself is in `dengine._core.answer`, shared with the hot path.
"""
from http import HTTPStatus

from dengine._core.answer import Problem, problem

__all__ = ["Problem", "answer", "problem"]


def answer(status: int, content_type: str, body: bytes = b"", *, bare: bool = False,
           size: int | None = None) -> bytes:
    """An answer with this body; `bare`: to a HEAD, without it. `size`: of a body that follows."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body) if size is None else size}\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() if bare else head.encode() + body
