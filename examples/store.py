"""A store of one node in this process: no server, no event loop.

    python examples/store.py [DIRECTORY]

Counts the words of a text, lists them in key order, and finds them again after closing.
"""
import sys
import tempfile

import dengine

TEXT = "the quick brown fox jumps over the lazy dog and the cat"


def count_words(store: dengine.Store, text: str) -> None:
    """A write returns when it is on the disk (DiskFirst, the default)."""
    for word in text.split():
        key = f"word/{word}"
        store[key] = str(int(store.get(key, b"0")) + 1)


def main(directory: str) -> None:
    with dengine.open(directory) as store:
        count_words(store, TEXT)
        print(f"{len(store)} words at revision {store.revision}")

        # A snapshot: what is written while it is read does not appear in it.
        for key, value in store.items(prefix="word/t"):
            store[key] = b"0"
            print(f"{key.decode()} = {value.decode()}")

        del store["word/dog"]
        print("word/dog" in store)

    with dengine.open(directory) as store:      # as after any end of the process, kill -9 too
        print(f"{len(store)} words, word/fox = {store['word/fox'].decode()}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(directory)
