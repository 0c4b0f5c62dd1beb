"""One connection to each peer, however it came to a second one."""

from pathlib import Path

from tests.engines import run, three, until


def test_the_end_of_a_connection_that_was_replaced_ends_no_other(tmp_path: Path) -> None:
    """A node that left and came back is dialled anew, beside the connection that it still has."""
    async def main() -> None:
        async with three(tmp_path, "current") as engines:
            node = engines[0]._node
            assert node is not None
            key = 2, False
            await until("it is connected", lambda: key in node._peers)
            before = node._peers[key]
            node._dialling.pop(key).cancel()
            node._follow_members()
            after = await until("it is connected anew", lambda: node._peers.get(key, before)
                                is not before and node._peers[key])
            turns = engines[0].status()["counters"]["turns"]
            await until("time goes by",
                        lambda: engines[0].status()["counters"]["turns"] > turns + 100)
            assert node._peers[key] is after

    run(main())
