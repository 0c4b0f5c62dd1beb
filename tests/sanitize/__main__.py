"""Builds _core with sanitizers and runs what they are to watch.

    python -m tests.sanitize [asan] [tsan] [store] [--short] [--seconds 300]

It decides which tests run under which sanitizer and what counts as a finding: the exit status of
each run, and a planted fault that is not reported. Builds lie in build/sanitize, a copy of this
checkout, so that the modules that are imported here stay as they are. What the races are is in
races.pyx, what a store must keep in threads.py.
"""
import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from tests.trees import ROOT, build

TREE = ROOT / "build" / "sanitize"
# What reads bytes that others wrote, and everything of _core that runs without processes.
ASAN_TESTS = ["tests/core", "tests/http", "tests/test_peer.py", "tests/test_store.py",
              "tests/test_store_directory.py"]
ASAN_SHORT = [*(f"tests/core/test_{name}.py" for name in
                ("codec", "frames", "log", "meta", "recovery", "snapshot", "tree_kv", "wire")),
              "tests/http/test_fuzz.py", "tests/http/test_vectors.py", "tests/test_peer.py",
              "-k", "not every_flipped and not every_truncation and not invents_an_entry "
                    "and not churn and not TestStore"]          # minutes, here
MODULES = {"asan": "1", "tsan": "sanitize/* sim/store"}         # of the tests, to be compiled
RUNTIMES = {"asan": "libasan", "tsan": "libtsan"}
PLANTS = {
    "asan": {"over-read": "AddressSanitizer: heap-buffer-overflow",
             "use-after-free": "AddressSanitizer: heap-use-after-free",
             "misaligned": "runtime error: store to misaligned address"},
    "tsan": dict.fromkeys(("written", "refs", "job"), "ThreadSanitizer: data race"),
}
SECONDS, SHORT_SECONDS = 300, 6         # of the stress of Store
OPTIONS = {
    # leaks: of live blocks, in the debug build (tests/conftest.py); CPython itself keeps much
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:halt_on_error=1:"
                    "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=66:second_deadlock_stack=1:report_signal_unsafe=0",
    "PYTHONMALLOC": "malloc",           # else a read beyond a bytes object stays in its arena
    "PYTHONHASHSEED": "0",
}


def library(name: str) -> str:
    """Where the compiler keeps a runtime, which must be loaded before the interpreter's own."""
    out = subprocess.run([os.environ.get("CC", "gcc"), f"-print-file-name={name}.so"],
                         check=True, capture_output=True, text=True)
    return str(Path(out.stdout.strip()).resolve())


def command(flavour: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """python with the runtime preloaded: (command, environment)."""
    print("$", *arguments, flush=True)
    # Addresses are not randomized: ThreadSanitizer needs places of its own.
    return (["setarch", platform.machine(), "-R", sys.executable, *arguments],
            {**os.environ, **OPTIONS, "LD_PRELOAD": library(RUNTIMES[flavour])})


def fails(flavour: str, *arguments: str) -> bool:
    line, env = command(flavour, *arguments)
    return subprocess.run(line, cwd=TREE, env=env).returncode != 0


def unnoticed(flavour: str) -> list[str]:
    """Planted faults that were not reported: then a clean run would prove nothing."""
    failures = []
    for plant, report in PLANTS[flavour].items():
        line, env = command(flavour, "-m", "tests.sanitize.plant", plant)
        env["TSAN_OPTIONS"] += ":halt_on_error=1"       # the first report ends it
        done = subprocess.run(line, cwd=TREE, env=env, capture_output=True, text=True)
        if done.returncode == 0 or report not in done.stderr:
            print(done.stdout, done.stderr, sep="")
            failures.append(f"{flavour}: the planted fault '{plant}' was not reported")
    return failures


def asan(short: bool, seconds: int) -> list[str]:
    build(TREE, "asan", MODULES["asan"])
    failures = unnoticed("asan")
    # A plugin may import compiled code that is not ours, with reports of its own. What is written
    # to the file descriptor is not captured: a report comes when the process ends.
    if fails("asan", "-m", "pytest", "-p", "no:benchmark", "-p", "no:cacheprovider",
             "-o", "addopts=-q", "--capture=sys", "--hypothesis-seed=0",
             *(ASAN_SHORT if short else ASAN_TESTS)):
        failures.append("asan: see above")
    return failures


def tsan(short: bool, seconds: int) -> list[str]:
    build(TREE, "tsan", MODULES["tsan"])
    failures = unnoticed("tsan")
    share = str(max(2, seconds // 5))
    if fails("tsan", "-m", "tests.sanitize.race", "--seconds", share):
        failures.append("tsan: a race in ring, marks, references or pins")
    if fails("tsan", "-m", "tests.sanitize.threads", "--seconds", share):
        failures.append("tsan: a race under Store")
    return failures


def store(short: bool, seconds: int) -> list[str]:
    print("$ -m tests.sanitize.threads --seconds", seconds, flush=True)
    done = subprocess.run([sys.executable, "-m", "tests.sanitize.threads", "--seconds",
                           str(seconds)], cwd=ROOT)
    return ["store: it differs from the dict"] if done.returncode else []


PARTS = {"asan": asan, "tsan": tsan, "store": store}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--seconds", type=int,
                        help=f"of the stress of Store: {SECONDS}, short {SHORT_SECONDS}")
    parser.add_argument("--short", action="store_true", help="what CI has time for")
    args = parser.parse_args()
    seconds = args.seconds or (SHORT_SECONDS if args.short else SECONDS)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    failures = []
    for name in args.parts or PARTS:
        start = time.monotonic()
        found = PARTS[name](args.short, seconds)
        failures += found
        print(f"==== {name}: {'clean' if not found else 'FAILED'}, "
              f"{time.monotonic() - start:.0f} s", flush=True)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
