"""The extension modules and the compiler directives, each in one table.

DENGINE_BUILD=debug     bounds and None checks, assertions, -O1 -g
DENGINE_TESTS=1         also the compiled parts of the tests (fake disk, in-memory links)
"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("DENGINE_BUILD", "release") == "debug"
TESTS = os.environ.get("DENGINE_TESTS", "0") == "1"
CHECKED = DEBUG
JOBS = os.cpu_count() or 1

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "initializedcheck": CHECKED,
    "nonecheck": CHECKED,
    "cdivision": True,
    "embedsignature": True,
    "freethreading_compatible": False,  # one lock: the GIL
}
COMPILE = ["-std=gnu11", "-Wall", "-Wno-unused-function", "-Wno-unreachable-code-fallthrough"]
COMPILE += ["-O1", "-g"] if DEBUG else ["-O2", "-g0"]
MACROS = [("DENGINE_DEBUG", "1")] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")]


def extensions() -> list[Extension]:
    sources = sorted(Path("dengine/_core").glob("*.pyx"))
    if TESTS:
        sources += sorted(Path("tests/sim").glob("*.pyx"))
    return [
        Extension(
            str(source.with_suffix("")).replace(os.sep, "."),
            [str(source)],
            include_dirs=["dengine/_core"],
            extra_compile_args=COMPILE,
            extra_link_args=["-pthread"],
            define_macros=MACROS,
            depends=["dengine/_core/native.h"],
        )
        for source in sources
    ]


class BuildInParallel(build_ext):
    """Compiles on all cores and prints one line per module."""

    def build_extensions(self) -> None:
        self.check_extensions_list(self.extensions)
        done = 0
        with ThreadPoolExecutor(JOBS) as pool:
            work = {pool.submit(self.build_extension, e): e for e in self.extensions}
            for future, extension in work.items():
                future.result()
                done += 1
                print(f"[{done}/{len(work)}] {extension.name}", file=sys.stderr, flush=True)


# Switching between the builds must rebuild everything: the stamp names the flavour of build/.
flavour = "debug" if DEBUG else "release"
build_dir = f"build/{flavour}"

setup(
    ext_modules=cythonize(
        extensions(),
        build_dir=build_dir,
        compiler_directives=DIRECTIVES,
        nthreads=JOBS,
        annotate=os.environ.get("DENGINE_ANNOTATE") == "1",
    ),
    cmdclass={"build_ext": BuildInParallel},
    options={"build": {"build_base": build_dir}},
)
