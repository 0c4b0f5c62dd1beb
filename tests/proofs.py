"""Files of evidence: which commit a campaign belongs to, and how a file is kept."""
from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GIT_S = 10.0


def commit(*paths: str) -> str:
    """The last commit that touched these paths, abbreviated; "" outside a repository."""
    done = subprocess.run(["git", "log", "-1", "--format=%h", "--", *paths], cwd=ROOT, text=True,
                          capture_output=True, timeout=GIT_S, check=False)
    return done.stdout.strip()


def core() -> str:
    """The last commit that touched the core: totals of evidence count from it."""
    return commit("dengine/_core")


def load(file: Path) -> dict[str, Any]:
    """What a file of evidence holds; no campaign yet where there is none."""
    data: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"campaigns": []}
    return data


def save(file: Path, data: dict[str, Any]) -> None:
    """The whole file or nothing: campaigns are interrupted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1) + "\n")
    new.replace(file)


def add(file: Path, head: dict[str, Any], seed: int, totals: dict[str, Any]) -> None:
    """Adds one run to the campaign of this core and head in the file. Ranges of seeds grow."""
    data, head = load(file), {"core": core(), **head}
    campaign = next((c for c in data["campaigns"]
                     if all(c.get(k) == v for k, v in head.items())), None)
    if campaign is None:
        campaign = dict(head)
        data["campaigns"].append(campaign)
    campaign["commit"] = commit(".")
    campaign["seeds"] = ranges([*numbers(campaign.get("seeds", "")), seed])
    campaign["totals"] = merged(campaign.get("totals", {}), totals)
    save(file, data)


def note(file: Path | None, result: dict[str, Any]) -> None:
    """Prints a result that stands for itself, and keeps it where there is a file."""
    for name, value in result.items():
        print(f"{name:24} {value}")
    if file:
        data = load(file)
        data["campaigns"].append({"core": core(), "commit": commit("."), **result})
        save(file, data)


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The sum of two totals."""
    result = dict(old)
    for name, value in new.items():
        if name not in old:
            result[name] = value
        elif isinstance(value, dict):
            result[name] = dict(sorted((Counter(old[name]) + Counter(value)).items()))
        elif name.startswith("longest"):
            result[name] = max(old[name], value)
        else:
            result[name] = old[name] + value
    return result


def numbers(text: str) -> list[int]:
    """"1-3 7" -> 1, 2, 3, 7."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def ranges(seeds: list[int]) -> str:
    parts: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if parts and parts[-1][1] == seed - 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return " ".join(f"{a}-{b}" if b > a else str(a) for a, b in parts)
