"""Whole answers of the health port."""
import pytest

from dengine.http.problem import answer


@pytest.mark.parametrize(("status", "reason"), [
    (200, b"OK"), (400, b"Bad Request"), (404, b"Not Found"), (503, b"Service Unavailable"),
    (504, b"Gateway Timeout")])
def test_every_status_has_its_reason(status: int, reason: bytes) -> None:
    """One that had none broke the connection of a change whose outcome was unknown."""
    head, _, body = answer(status, "text/plain", b"x").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d %s\r\n" % (status, reason))
    assert body == b"x"
