"""Every refusal and every limit: bytes in, status, code, and whether the connection goes on."""
import asyncio

import pytest

from tests.http.harness import HOST, Server, get, request, serving

LIMITS = {
    "max_line_bytes": 300, "max_header_bytes": 1000, "max_headers": 10, "max_body_bytes": 500,
    "max_key_bytes": 40, "max_value_bytes": 200,
}
JSON = b'{"key":"k","value":"v"}'
CHUNKED = b"Transfer-Encoding: chunked"


def post(body: bytes, *headers: bytes) -> bytes:
    return request(b"POST", b"/kv", *headers, body=body)


# name: bytes, status, code, does the connection go on
VECTORS = {
    # what is served
    "get": (get(b"/kv/a"), 200, None, True),
    "get absolute form": (get(b"http://x/kv/a"), 200, None, True),
    "get escaped": (get(b"/kv/%61"), 200, None, True),
    "get lease": (get(b"/kv/a?consistency=lease"), 200, None, True),
    "get linearizable": (get(b"/kv/a?consistency=linearizable"), 200, None, True),
    "get missing": (get(b"/kv/none"), 404, "key_not_found", True),
    "get with a body": (request(b"GET", b"/kv/a", body=b"x" * 400), 200, None, True),
    "post": (post(JSON), 200, None, True),
    "post chunked": (
        request(b"POST", b"/kv", CHUNKED) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(JSON), JSON),
        200, None, True),
    "put": (request(b"PUT", b"/kv/k", body=b"\xff"), 200, None, True),
    "put empty": (request(b"PUT", b"/kv/k", body=b""), 200, None, True),
    "put without a length": (request(b"PUT", b"/kv/k"), 200, None, True),
    "delete": (request(b"DELETE", b"/kv/a"), 200, None, True),
    "leading empty lines": (b"\r\n\r\n" + get(b"/kv/a"), 200, None, True),
    "HTTP/1.0": (b"GET /kv/a HTTP/1.0\r\n\r\n", 200, None, False),
    "HTTP/1.0 keep-alive": (
        b"GET /kv/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, None, True),
    "close": (get(b"/kv/a", b"Connection: close"), 200, None, False),
    # framing in doubt
    "no host": (b"GET /kv/a HTTP/1.1\r\n\r\n", 400, "bad_host", False),
    "two hosts": (get(b"/kv/a", b"Host: y"), 400, "bad_host", False),
    "two hosts HTTP/1.0": (
        b"GET /kv/a HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400, "bad_host", False),
    "length and chunked": (
        request(b"POST", b"/kv", b"Content-Length: 3", CHUNKED) + b"0\r\n\r\n",
        400, "bad_request", False),
    "chunked and length": (
        request(b"POST", b"/kv", CHUNKED, b"Content-Length: 3") + b"0\r\n\r\n",
        400, "bad_request", False),
    "two lengths": (
        request(b"POST", b"/kv", b"Content-Length: 3", b"Content-Length: 3") + b"abc",
        400, "bad_request", False),
    "length list": (
        request(b"POST", b"/kv", b"Content-Length: 3, 3") + b"abc", 400, "bad_request", False),
    "length sign": (
        request(b"POST", b"/kv", b"Content-Length: +3") + b"abc", 400, "bad_request", False),
    "length overflow": (
        request(b"POST", b"/kv", b"Content-Length: 99999999999999999999"),
        400, "bad_request", False),
    "length huge": (
        request(b"POST", b"/kv", b"Content-Length: 9999999999999999999"),
        413, "body_too_large", False),
    "coding unknown": (
        request(b"POST", b"/kv", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        400, "bad_framing", False),
    "coding twice": (
        request(b"POST", b"/kv", CHUNKED, CHUNKED) + b"0\r\n\r\n", 400, "bad_request", False),
    "coding not chunked": (
        request(b"POST", b"/kv", b"Transfer-Encoding: gzip") + b"x", 400, "bad_framing", False),
    "chunked HTTP/1.0": (
        b"POST /kv HTTP/1.0\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n", 400, "bad_framing", False),
    "chunk size": (
        request(b"POST", b"/kv", CHUNKED) + b"zz\r\n", 400, "bad_request", False),
    "HTTP/2.0": (b"GET /kv/a HTTP/2.0\r\n" + HOST + b"\r\n", 400, "bad_version", False),
    "HTTP/0.9": (b"GET /kv/a\r\n\r\n", 400, "bad_version", False),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request", False),
    "upgrade": (
        get(b"/kv/a", b"Connection: Upgrade", b"Upgrade: h2c"), 400, "no_upgrade", False),
    "connect": (b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "no_upgrade", False),
    "NUL in a header": (get(b"/kv/a", b"A: b\0"), 400, "bad_request", False),
    "NUL in the target": (get(b"/kv/\0"), 400, "bad_request", False),
    "bare LF": (b"GET /kv/a HTTP/1.1\nHost: x\n\n", 400, "bad_request", False),
    "folded header": (get(b"/kv/a", b"A: b\r\n c"), 400, "bad_request", False),
    "space before colon": (get(b"/kv/a", b"A : b"), 400, "bad_request", False),
    "raw byte in the target": (get(b"/kv/\xff"), 400, "bad_request", False),
    "unknown method": (request(b"BREW", b"/kv/a"), 400, "bad_request", False),
    "garbage": (b"\x16\x03\x01\x02\x00", 400, "bad_request", False),
    # limits
    "line": (get(b"/kv/" + b"a" * 297), 414, "target_too_long", False),
    "header bytes": (get(b"/kv/a", b"A: " + b"b" * 1000), 431, "headers_too_large", False),
    "header bytes in sum": (
        get(b"/kv/a", *[b"A: " + b"b" * 250] * 4), 431, "headers_too_large", False),
    "header count": (get(b"/kv/a", *[b"A: b"] * 10), 431, "headers_too_large", False),
    "header name": (get(b"/kv/a", b"b" * 6000 + b": c"), 431, "headers_too_large", False),
    "body": (post(b"x" * 501), 413, "body_too_large", False),
    "body chunked": (
        request(b"POST", b"/kv", CHUNKED) + b"1f4\r\n" + b"x" * 500 + b"\r\n1\r\nx\r\n",
        413, "body_too_large", False),
    "chunk extension": (
        request(b"POST", b"/kv", CHUNKED) + b"1;" + b"x" * 6000, 400, "bad_request", False),
    "trailer": (
        request(b"POST", b"/kv", CHUNKED) + b"0\r\nA: " + b"b" * 6000, 400, "bad_request", False),
    "trailer count": (
        request(b"POST", b"/kv", CHUNKED) + b"0\r\n" + b"A: b\r\n" * 20 + b"\r\n",
        431, "headers_too_large", False),
    "empty lines": (b"\r\n" * 5000, 431, "headers_too_large", False),
    "key in the target": (get(b"/kv/" + b"a" * 41), 413, "key_too_large", True),
    "key of a put": (
        request(b"PUT", b"/kv/" + b"a" * 41, body=b""), 413, "key_too_large", True),
    "key in JSON": (
        post(b'{"key":"%s","value":""}' % (b"a" * 41)), 413, "key_too_large", True),
    "value": (request(b"PUT", b"/kv/k", body=b"x" * 201), 413, "value_too_large", True),
    "value in JSON": (
        post(b'{"key":"k","value":"%s"}' % (b"x" * 201)), 413, "value_too_large", True),
    # what was asked
    "not found": (get(b"/x"), 404, "not_found", True),
    "not found /kvx": (get(b"/kvx"), 404, "not_found", True),
    "star": (request(b"OPTIONS", b"*"), 404, "not_found", True),
    "scan": (get(b"/kv"), 400, "not_supported_yet", True),
    "empty key": (get(b"/kv/"), 400, "empty_key", True),
    "empty key in JSON": (post(b'{"key":"","value":"v"}'), 400, "empty_key", True),
    "method on /kv": (request(b"PUT", b"/kv", body=b""), 405, "method_not_allowed", True),
    "method on a key": (request(b"POST", b"/kv/a", body=b""), 405, "method_not_allowed", True),
    "escape cut": (get(b"/kv/a%4"), 400, "bad_target", True),
    "escape bad": (get(b"/kv/a%zz"), 400, "bad_target", True),
    "fragment": (get(b"/kv/a#b"), 400, "bad_target", True),
    "query unknown": (get(b"/kv/a?x=1"), 400, "bad_query", True),
    "query value": (get(b"/kv/a?consistency=strong"), 400, "bad_query", True),
    "query twice": (
        get(b"/kv/a?consistency=lease&consistency=lease"), 400, "bad_query", True),
    "query on a write": (request(b"DELETE", b"/kv/a?x=1"), 400, "bad_query", True),
    "not JSON": (post(b"hello"), 400, "bad_json", True),
    "JSON empty": (post(b""), 400, "bad_json", True),
    "JSON type": (post(b'{"key":1,"value":"v"}'), 400, "bad_json", True),
    "JSON missing": (post(b'{"key":"k"}'), 400, "bad_json", True),
    "JSON unknown": (post(b'{"key":"k","value":"v","x":1}'), 400, "bad_json", True),
    "JSON surrogate": (post(b'{"key":"\\ud800","value":"v"}'), 400, "bad_json", True),
    "JSON not UTF-8": (post(b'{"key":"\xff","value":"v"}'), 400, "bad_json", True),
    "JSON deep": (
        post(b'{"key":"k","value":"v","ttl":' + b"[" * 400), 400, "bad_json", True),
    "ttl": (post(b'{"key":"k","value":"v","ttl":3}'), 400, "not_supported_yet", True),
    "idempotency key": (post(JSON, b"Idempotency-Key: k"), 200, None, True),
    "idempotency key of a read": (get(b"/kv/a", b"Idempotency-Key: k"), 200, None, True),
    "idempotency key empty": (
        post(JSON, b"Idempotency-Key: "), 400, "bad_idempotency_key", True),
    "idempotency key long": (
        post(JSON, b"Idempotency-Key: " + b"k" * 256), 400, "bad_idempotency_key", True),
    "idempotency key with a space": (
        post(JSON, b"Idempotency-Key: a b"), 400, "bad_idempotency_key", True),
    "idempotency key with bytes": (
        post(JSON, b"Idempotency-Key: k\xff"), 400, "bad_idempotency_key", True),
    "idempotency key twice": (
        post(JSON, b"Idempotency-Key: a\r\nIdempotency-Key: b"), 400, "bad_idempotency_key",
        True),
    "expectation": (post(JSON, b"Expect: tea"), 417, "unknown_expectation", True),
    "if-match missing": (
        request(b"PUT", b"/kv/none", b"If-Match: *", body=b""), 412, "conflict", True),
    "if-match stale": (
        request(b"DELETE", b"/kv/a", b'If-Match: "99"'), 412, "conflict", True),
    "if-none-match present": (
        post(b'{"key":"a","value":"v"}', b"If-None-Match: *"), 412, "conflict", True),
    "if-match bad": (
        request(b"DELETE", b"/kv/a", b"If-Match: 1"), 400, "bad_condition", True),
    "if-match weak": (
        request(b"DELETE", b"/kv/a", b'If-Match: W/"1"'), 400, "bad_condition", True),
    "if-match list": (
        request(b"DELETE", b"/kv/a", b'If-Match: "1", "2"'), 400, "bad_condition", True),
    "if-none-match tag": (
        request(b"DELETE", b"/kv/a", b'If-None-Match: "1"'), 400, "bad_condition", True),
    "both conditions": (
        request(b"DELETE", b"/kv/a", b"If-Match: *", b"If-None-Match: *"),
        400, "bad_condition", True),
}


@pytest.mark.parametrize("piece", [1 << 20, 1, 7], ids=["whole", "bytewise", "sevens"])
@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str, piece: int) -> None:
    data, status, code, goes_on = VECTORS[name]

    async def test(server: Server) -> None:
        async with server.client() as client:
            for at in range(0, len(data), piece):
                client.send(data[at:at + piece])
                await asyncio.sleep(0)
            answer = await client.answer()
            assert (answer.status, answer.code) == (status, code)
            if goes_on:
                again = await client.ask(get(b"/kv/b"))
                assert again.status == 404
                assert "connection" not in again.headers
            else:
                assert answer.headers["connection"] == "close"
                assert await client.rest() == b""

    serving(test, **LIMITS)


def test_too_many_connections() -> None:
    async def test(server: Server) -> None:
        async with server.client() as first, server.client() as second:
            assert (await first.ask(get(b"/kv/a"))).status == 200
            refused = await second.answer()
            assert (refused.status, refused.code) == (503, "too_many_connections")
            assert refused.headers["retry-after"] == "1"
            assert await second.rest() == b""

    serving(test, max_connections=1)


@pytest.mark.parametrize("data", [
    b"G", b"GET /kv/a HTTP/1.1\r\nHost", request(b"PUT", b"/kv/k", b"Content-Length: 3") + b"x"])
def test_slow_client(data: bytes) -> None:
    async def test(server: Server) -> None:
        async with server.client() as client:
            answer = await client.ask(data)
            assert (answer.status, answer.code) == (408, "request_timeout")
            assert await client.rest() == b""

    serving(test, header_timeout_ms=80, idle_timeout_ms=80)


def test_idle_connection_is_closed() -> None:
    async def test(server: Server) -> None:
        async with server.client() as client:
            assert (await client.ask(get(b"/kv/a"))).status == 200
            assert await client.rest() == b""

    serving(test, idle_timeout_ms=80)
