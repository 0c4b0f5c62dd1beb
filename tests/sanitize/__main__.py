"""Builds _core with sanitizers and runs what they are to watch.

    python -m tests.sanitize [asan] [tsan] [store] [--short] [--seconds 300]

It decides which tests run under which sanitizer and what counts as a finding: the exit status of
each run. Builds lie in build/<flavour>/tree, a copy of this checkout, so that the modules that are
imported here stay as they are. What the races are is in races.pyx, what a store must keep in
threads.py.
"""
import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.so", "__pycache__", "*.egg-info",
                                  "db", "logs", "evidence")
# What reads bytes that others wrote, and everything of _core that runs without processes.
ASAN_TESTS = ["tests/core", "tests/http", "tests/test_peer.py", "tests/test_store.py"]
ASAN_SHORT = ["tests/core", "tests/http/test_fuzz.py", "tests/http/test_vectors.py",
              "tests/test_peer.py"]
PLANTS = ("written", "refs", "job")
OPTIONS = {
    # leaks: of live blocks, in the debug build (tests/conftest.py); CPython itself keeps much
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:halt_on_error=1:"
                    "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=66:second_deadlock_stack=1:report_signal_unsafe=0",
    "PYTHONMALLOC": "malloc",           # else a read beyond a bytes object stays in its arena
    "PYTHONHASHSEED": "0",
}


def copied(flavour: str) -> Path:
    """The checkout as it is now, without what is built; unchanged files keep their age."""
    tree = ROOT / "build" / flavour / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    kept = set()

    def copy(source: str, target: str) -> str:
        kept.add(Path(target))
        old, new = Path(target), Path(source).stat()
        if not old.exists() or (old.stat().st_mtime_ns, old.stat().st_size) != (
                new.st_mtime_ns, new.st_size):
            shutil.copy2(source, target)
        return target

    shutil.copytree(ROOT, tree, ignore=LEFT_OUT, copy_function=copy, dirs_exist_ok=True)
    for file in tree.rglob("*"):
        built = file.suffix == ".so" or "build" in file.relative_to(tree).parts
        if file.is_file() and file not in kept and not built:
            file.unlink()
    return tree


def built(flavour: str) -> Path:
    tree = copied(flavour)
    env = {**os.environ, "DENGINE_BUILD": flavour, "DENGINE_TESTS": "1"}
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree,
                   env=env, check=True)
    return tree


def library(name: str) -> str:
    """Where the compiler keeps a runtime, which must be loaded before the interpreter's own."""
    out = subprocess.run([os.environ.get("CC", "gcc"), f"-print-file-name={name}.so"],
                         check=True, capture_output=True, text=True)
    return str(Path(out.stdout.strip()).resolve())


def watched(tree: Path, runtime: str, *arguments: str) -> int:
    """Runs python with the runtime preloaded; its exit status."""
    # Addresses are not randomized: ThreadSanitizer needs places of its own.
    env = {**os.environ, **OPTIONS, "LD_PRELOAD": library(runtime)}
    command = ["setarch", platform.machine(), "-R", sys.executable, *arguments]
    print("$", *arguments, flush=True)
    return subprocess.run(command, cwd=tree, env=env).returncode


def pytest(tree: Path, *tests: str) -> int:
    # A plugin may import compiled code that is not ours, with reports of its own.
    return watched(tree, "libasan", "-m", "pytest", "-p", "no:benchmark", "-o", "addopts=-q",
                   "-p", "no:cacheprovider", *tests)


def asan(short: bool, seconds: int) -> list[str]:
    tree = built("asan")
    failures = []
    if watched(tree, "libasan", "-m", "tests.sanitize.over_read") == 0:
        failures.append("asan: a planted over-read was not reported")
    if pytest(tree, *(ASAN_SHORT if short else ASAN_TESTS)):
        failures.append("asan: see above")
    return failures


def tsan(short: bool, seconds: int) -> list[str]:
    tree = built("tsan")
    failures = []
    for plant in PLANTS:
        if watched(tree, "libtsan", "-m", "tests.sanitize.race", "--seconds", "1",
                   "--plant", plant) != 66:
            failures.append(f"tsan: the planted race '{plant}' was not reported")
    share = str(max(2, seconds // (10 if short else 5)))
    if watched(tree, "libtsan", "-m", "tests.sanitize.race", "--seconds", share):
        failures.append("tsan: a race in ring, marks, references or pins")
    if watched(tree, "libtsan", "-m", "tests.sanitize.threads", "--seconds", share):
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
    parser.add_argument("--seconds", type=int, default=300, help="of the stress of Store")
    parser.add_argument("--short", action="store_true", help="what CI has time for")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    failures = []
    for name in args.parts or PARTS:
        start = time.monotonic()
        found = PARTS[name](args.short, args.seconds)
        failures += found
        print(f"==== {name}: {'clean' if not found else 'FAILED'}, "
              f"{time.monotonic() - start:.0f} s", flush=True)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
