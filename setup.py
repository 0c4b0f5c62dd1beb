"""The extension modules and the compiler directives, each in one table.

DENGINE_BUILD=debug     bounds and None checks, assertions, live blocks counted, -O1 -g
DENGINE_BUILD=asan      AddressSanitizer and UBSan; no other checks, so that they meet what a user
                        would. To be run with libasan preloaded: `make sanitize` does
DENGINE_BUILD=tsan      ThreadSanitizer, in the same way
DENGINE_BUILD=faults    the release build with planted bugs: `make mutants`
DENGINE_TESTS=1         also the compiled parts of the tests (fake disk, in-memory links);
                        some of them only: "sim/store sanitize/*"
DENGINE_ANNOTATE=1      also a page per module that shows where Python is called

The flavours are built apart, each in build/<flavour>, and copied into the source tree by
`python setup.py build_ext --inplace`: each is incremental, and the last one built is imported.
What Cython makes of the sources, in build/c, is the same for all but debug (build/c-debug).
"""
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAVOUR = os.environ.get("DENGINE_BUILD", "release")
DEBUG = FLAVOUR == "debug"
COMPILE = {
    "release": ["-O2", "-g0"],
    "debug": ["-O1", "-g"],
    "faults": ["-O2", "-g0"],
    "asan": ["-O0", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
             "-fno-sanitize-recover=undefined"],        # -O1 takes twice as long to build
    "tsan": ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=thread", "-Wno-tsan"],
}
if FLAVOUR not in COMPILE:
    sys.exit(f"DENGINE_BUILD = {FLAVOUR!r}: unknown; use one of {', '.join(COMPILE)}")
TESTS = {"0": "", "1": "*/*"}.get(chosen := os.environ.get("DENGINE_TESTS", "0"), chosen).split()
BUILD = Path("build", FLAVOUR)
TRANSLATED = Path("build", "c-debug" if DEBUG else "c")
JOBS = len(os.sched_getaffinity(0))

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": True,
    "embedsignature": True,
    "freethreading_compatible": False,  # one lock: the GIL
}
WARNINGS = ["-std=gnu11", "-Wall", "-Wno-unused-function"]
SANITIZE = [option for option in COMPILE[FLAVOUR] if option.startswith("-fsanitize=")]
MACROS = [("DENGINE_DEBUG", "1")] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")]
if FLAVOUR == "faults":
    MACROS.append(("DENGINE_FAULTS", "1"))


def extensions() -> list[Extension]:
    sources = sorted(Path("dengine/_core").glob("*.pyx"))
    sources += sorted({path for name in TESTS for path in Path("tests").glob(f"{name}.pyx")})
    return [
        Extension(
            str(source.with_suffix("")).replace(os.sep, "."),
            [str(source)],
            include_dirs=["dengine/_core"],
            extra_compile_args=WARNINGS + COMPILE[FLAVOUR],
            extra_link_args=["-pthread", *SANITIZE],
            define_macros=MACROS,
            depends=[*map(str, Path("dengine/_core").glob("*.h")), "setup.py"],
        )
        for source in sources
    ]


class BuildInParallel(build_ext):
    """Translates and compiles on all cores, with one line per module as it is finished."""

    def run(self) -> None:
        if self.inplace:
            self.build_lib, self.build_temp = str(BUILD / "lib"), str(BUILD / "temp")
        translated = cythonize(
            extensions(),
            build_dir=str(TRANSLATED),
            compiler_directives=DIRECTIVES,
            nthreads=JOBS,
            force=self.force or self.directives_changed(),
            annotate=os.environ.get("DENGINE_ANNOTATE") == "1",
        )
        sources = {e.name: e.sources for e in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().run()

    def copy_extensions_to_source(self) -> None:
        self.force = True  # those of the other flavour may be newer
        super().copy_extensions_to_source()

    def directives_changed(self) -> bool:
        changed = Path(__file__).stat().st_mtime
        return any(c.stat().st_mtime < changed for c in TRANSLATED.rglob("*.c"))

    def build_extensions(self) -> None:
        with ThreadPoolExecutor(JOBS) as pool:
            work = {pool.submit(self.build_extension, e): e for e in self.extensions}
            for done, future in enumerate(as_completed(work), 1):
                future.result()
                line = f"[{done}/{len(work)}] {work[future].name} ({FLAVOUR})"
                print(line, file=sys.stderr, flush=True)


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildInParallel},
    options={"build": {"build_base": str(BUILD / "wheel")}},
)
