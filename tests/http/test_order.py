"""Values, order of answers, back-pressure, and what the node's outcomes look like."""
import asyncio
import base64
import json

import pytest

from tests.http.harness import Server, get, request, serving


def put(key: bytes, value: bytes, *headers: bytes) -> bytes:
    return request(b"PUT", b"/kv/" + key, *headers, body=value)


@pytest.mark.parametrize("value", [
    b"", b"plain", b'"\\\b\f\n\r\t\x00\x1f\x7f/', "é€😀\u2028".encode(), b"x" * 100_000,
    b"\x00" * 5000, b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82"])
def test_value_as_json_and_raw(value: bytes) -> None:
    async def test(server: Server) -> None:
        server.turn.put(b"v", value)
        async with server.client() as client:
            answer = await client.ask(get(b"/kv/v"))
            body = answer.json
            try:
                assert body == {"value": value.decode()}
            except UnicodeDecodeError:
                assert body == {"value_base64": base64.b64encode(value).decode()}
            assert answer.headers["etag"] == '"2"'
            assert answer.headers["dengine-revision"] == "2"
            assert answer.headers["vary"] == "accept"
            raw = await client.ask(get(b"/kv/v", b"Accept: application/octet-stream"))
            assert raw.body == value
            head = await client.ask(request(b"HEAD", b"/kv/v"), bare=True)
            assert head.headers["content-length"] == str(len(answer.body))
            assert (await client.ask(request(b"HEAD", b"/none"), bare=True)).status == 404

    serving(test)


def test_writes() -> None:
    async def test(server: Server) -> None:
        async with server.client() as client:
            body = json.dumps({"key": "ключ/1", "value": "v"}).encode()
            answer = await client.ask(request(b"POST", b"/kv", body=body))
            assert answer.json == {"revision": 2}
            assert answer.headers["etag"] == '"2"'
            path = b"/kv/%D0%BA%D0%BB%D1%8E%D1%87/1"
            assert (await client.ask(get(path))).json == {"value": "v"}
            answer = await client.ask(request(b"PUT", path, b'If-Match: "2"', body=b"w"))
            assert answer.json == {"revision": 3}
            conflict = await client.ask(request(b"PUT", path, b'If-Match: "2"', body=b"x"))
            assert (conflict.status, conflict.json["revision"]) == (412, 3)
            answer = await client.ask(request(b"DELETE", path, b"If-Match: *"))
            assert answer.json == {"revision": 4, "deleted": 1}
            assert (await client.ask(request(b"DELETE", path))).json == {
                "revision": 4, "deleted": 0}
            answer = await client.ask(request(b"PUT", path, b"If-None-Match: *", body=b"y"))
            assert answer.json == {"revision": 5}
        assert server.http.requests()["delete", 200, "ok"] == 2
        assert server.http.requests()["put", 412, "conflict"] == 1

    serving(test)


@pytest.mark.parametrize(("status", "method", "expected"), [
    (3, b"PUT", (503, "not_proposed")), (4, b"PUT", (504, "outcome_unknown")),
    (6, b"DELETE", (503, "stopped")), (5, b"GET", (503, "unavailable")),
    (7, b"PUT", (507, "no_space"))])
def test_outcomes(status: int, method: bytes, expected: tuple[int, str]) -> None:
    async def test(server: Server) -> None:
        server.turn.hold = True
        async with server.client() as client:
            client.send(request(method, b"/kv/a"))
            await server.eventually(lambda: server.turn.submitted == 1)
            server.turn.fail(status)
            answer = await client.answer()
            assert (answer.status, answer.code) == expected

    serving(test, default_policy=0)


def test_node_that_refuses() -> None:
    async def test(server: Server) -> None:
        server.turn.error = RuntimeError("gone")
        async with server.client() as client:
            answer = await client.ask(put(b"k", b"v"))
            assert (answer.status, answer.code) == (503, "stopped")

    serving(test)


def test_lease_is_checked_again_after_the_copy() -> None:
    async def test(server: Server) -> None:
        server.turn.refuse_after = 1
        server.turn.hold = True
        async with server.client() as client:
            client.send(get(b"/kv/a"))
            await server.eventually(lambda: server.turn.submitted == 1)
            server.turn.release()
            assert (await client.answer()).json == {"value": "one"}

    serving(test)


def test_pipeline_keeps_order_and_reads_its_writes() -> None:
    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(b"".join(
                put(b"k", b"%d" % i) + get(b"/kv/k") + get(b"/none") for i in range(500)))
            for i in range(500):
                assert (await client.answer()).json == {"revision": i + 2}
                assert (await client.answer()).json == {"value": str(i)}
                assert (await client.answer()).status == 404

    serving(test)


def test_reads_overlap_and_writes_wait() -> None:
    async def test(server: Server) -> None:
        turn = server.turn
        turn.hold = True
        for i in range(3):
            turn.put(b"%d" % i, b"%d" % i)
        async with server.client() as client:
            client.send(get(b"/kv/0") + get(b"/kv/1") + get(b"/kv/2") + put(b"1", b"new")
                        + get(b"/kv/1"))
            await server.eventually(lambda: turn.submitted == 3)
            turn.release([2, 1])                # answered out of order: nothing is written yet
            await client.turns()
            assert turn.submitted == 1
            turn.release()
            for i in range(3):
                assert (await client.answer()).json == {"value": str(i)}
            await server.eventually(lambda: turn.submitted == 1)    # the write, alone
            turn.release()
            assert (await client.answer()).json == {"revision": 5}
            await server.eventually(lambda: turn.submitted == 1)
            turn.release()
            assert (await client.answer()).json == {"value": "new"}

    serving(test, default_policy=0)


def test_pipeline_depth_is_bounded() -> None:
    async def test(server: Server) -> None:
        server.turn.hold = True
        server.turn.put(b"k", b"v")
        async with server.client() as client:
            client.send(get(b"/kv/k") * 5000)
            await server.eventually(lambda: server.turn.submitted >= 64)
            await client.turns(50)
            assert server.turn.submitted < 64 + 4096 // len(get(b"/kv/k")) + 1
            server.turn.hold = False
            server.turn.release()
            for _ in range(5000):
                assert (await client.answer()).json == {"value": "v"}

    serving(test, default_policy=0)


@pytest.mark.parametrize("policy", [0, 2])
def test_client_that_never_reads(policy: int) -> None:
    async def test(server: Server) -> None:
        server.turn.put(b"big", b"\x01" * (1 << 20))            # 6 MiB as JSON
        async with server.client() as client:
            client.reader._transport.pause_reading()            # type: ignore[attr-defined]
            client.send(get(b"/kv/big") * 64)
            await server.eventually(lambda: any(server.http.requests().values()))
            await client.turns(200)
            answered = sum(server.http.requests().values())
            assert answered <= 3                                # the rest is not even read
            async with server.client() as other:
                assert (await other.ask(get(b"/kv/a"))).status == 200
            client.reader._transport.resume_reading()           # type: ignore[attr-defined]
            for _ in range(64):
                assert len((await client.answer()).body) == 12 + 6 * (1 << 20)

    serving(test, default_policy=policy)


def test_client_that_never_reads_is_dropped() -> None:
    async def test(server: Server) -> None:
        server.turn.put(b"big", b"\x01" * (1 << 20))
        async with server.client() as client:
            client.reader._transport.pause_reading()            # type: ignore[attr-defined]
            client.send(get(b"/kv/big") * 3)
            await server.eventually(lambda: any(server.http.requests().values()))
            await server.eventually(lambda: server.http.connections == 0)

    serving(test, idle_timeout_ms=80)


@pytest.mark.parametrize("broken", [False, True])
def test_client_that_leaves_with_requests_in_flight(broken: bool) -> None:
    async def test(server: Server) -> None:
        server.turn.hold = True
        async with server.client() as client:
            client.send(put(b"k", b"v") + get(b"/kv/k"))
            await server.eventually(lambda: server.turn.submitted == 1)
            client.writer.transport.abort()
        if broken:
            server.http.close()
            await server.eventually(lambda: server.http.connections == 0)
        server.turn.release()
        await server.eventually(lambda: server.http.connections == 0)
        assert server.turn.revision == 2                        # applied all the same
        assert server.turn.submitted == 0

    serving(test)


def test_half_closed_client_gets_its_answers() -> None:
    async def test(server: Server) -> None:
        async with server.client() as client:
            client.send(put(b"k", b"v") + get(b"/kv/k") + b"GET /kv")
            client.writer.write_eof()
            assert (await client.answer()).json == {"revision": 2}
            rest = await client.rest()
            assert rest.endswith(b'{"value":"v"}')

    serving(test)


def test_continue() -> None:
    async def test(server: Server) -> None:
        async with server.client() as client:
            head = request(b"PUT", b"/kv/k", b"Expect: 100-continue", b"Content-Length: 1")
            assert (await client.ask(head)).status == 100
            assert (await client.ask(b"v")).json == {"revision": 2}
            server.turn.hold = True                             # also behind an unfinished write
            client.send(put(b"k", b"v") + head)
            await server.eventually(lambda: server.turn.submitted == 1)
            server.turn.hold = False
            server.turn.release()
            assert (await client.answer()).json == {"revision": 3}
            assert (await client.answer()).status == 100
            assert (await client.ask(b"v")).json == {"revision": 4}

    serving(test)


def test_drain() -> None:
    async def test(server: Server) -> None:
        server.turn.hold = True
        async with server.client() as idle, server.client() as busy:
            assert (await idle.ask(get(b"/kv/a"))).status == 200
            busy.send(put(b"k", b"v"))
            await server.eventually(lambda: server.turn.submitted == 1)
            drained = server.http.drain()
            assert await idle.rest() == b""
            assert not drained.done()
            server.turn.release()
            assert (await busy.answer()).json == {"revision": 2}
            assert await busy.rest() == b""
            await asyncio.wait_for(drained, 10)

    serving(test)
