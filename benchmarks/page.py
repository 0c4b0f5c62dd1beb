"""One page of HTML from the files that --json wrote: plots and tables, to look at in a browser.

    python -m benchmarks.page build/bench/*.json --out build/bench/index.html

A benchmark that has a plot here gets it; the others get their figures as a table.
"""

import argparse
import html
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

OURS, MET, MISSED, PLAIN = "#1f6f8b", "#2a9d5c", "#c8553d", "#8a97a0"
HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>dengine: benchmarks</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #24303a; max-width: 60rem; margin: 3rem auto;
       padding: 0 1rem }
h1 { font-weight: 600 } h2 { margin-top: 3rem; font-weight: 600 }
p, figcaption { color: #55636e } svg { width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem }
td, th { padding: 0.2rem 0.9rem 0.2rem 0; text-align: right; border-bottom: 1px solid #e3e8ec }
td:first-child, th:first-child { text-align: left }
</style>
"""
pyplot.rcParams.update({
    "font.family": "sans-serif", "font.size": 9, "svg.fonttype": "none", "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": PLAIN, "axes.grid": True, "grid.color": "#e3e8ec",
    "axes.axisbelow": True, "lines.linewidth": 1.8})
Content = dict[str, Any]


def svg() -> str:
    out = io.StringIO()
    pyplot.savefig(out, format="svg", bbox_inches="tight")
    pyplot.close("all")
    text = out.getvalue()
    return text[text.index("<svg"):]


def rate(figure: Content) -> float:
    return float(figure["requests"] / figure["seconds"])


def bars(rows: list[tuple[str, list[float], float | None]], label: str) -> str:
    """Ratios with their spread, on a scale of powers, and the goal as a mark."""
    _, axes = pyplot.subplots(figsize=(8, 0.6 + 0.34 * len(rows)))
    for y, (_, ratios, goal) in enumerate(reversed(rows)):
        middle = median(ratios)
        colour = OURS if goal is None else MET if middle >= goal else MISSED
        axes.barh(y, middle, color=colour, height=0.62)
        axes.plot([min(ratios), max(ratios)], [y, y], color="#24303a", linewidth=1)
        if goal is not None:
            axes.plot([goal, goal], [y - 0.42, y + 0.42], color="#24303a", linewidth=2)
        axes.text(1.08 * max(*ratios, middle, goal or 0.0), y, f"{middle:.3g}", va="center")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axes.set_xscale("log")
    axes.axvline(1, color=PLAIN, linewidth=1)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    return svg()


def peers(content: Content) -> str:
    rows = []
    for row in content["figures"]:
        ratios = [rate(a) / rate(b) for a, b in zip(row["ours"], row["theirs"], strict=True)]
        rows.append((f"{row['peer']}: {row['work']}, {row['clients']}", ratios, row["goal"]))
    return bars(rows, "times as many operations a second as the peer; mark: the goal")


def store(content: Content) -> str:
    rows: list[tuple[str, list[float], float | None]] = []
    for row in content["figures"]:
        if row.get("place") == "disk":
            ours = row["ns"]["dengine"]
            for peer, theirs in row["ns"].items():
                if peer != "dengine":
                    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
                    rows.append((f"{row['strategy']}, {row['op']}: {peer}", ratios, None))
    return bars(rows, "times as fast as the peer, on the disk")


def scaling(content: Content) -> str:
    points = content["figures"]
    varied = list(dict.fromkeys(p["varied"] for p in points))
    _, grid = pyplot.subplots(1, len(varied), figsize=(2.9 * len(varied), 2.8), squeeze=False)
    for axes, name in zip(grid[0], varied, strict=True):
        for op in dict.fromkeys(p["op"] for p in points if p["varied"] == name):
            own = [p for p in points if p["varied"] == name and p["op"] == op]
            axes.plot([p["at"] for p in own], [1e9 / p["ns"] for p in own], marker="o",
                      markersize=3, label=op)
        axes.set(title=name, yscale="log", xscale="linear" if name == "nodes" else "log")
        axes.legend(frameon=False, fontsize=7)
    grid[0][0].set_ylabel("operations a second")
    pyplot.tight_layout()
    return svg()


def open_loop(content: Content) -> str:
    figure = content["figures"][0]["figure"]
    names = {"p50": "p50_us", "p99": "p99_us", "p99.9": "p999_us", "max": "max_us"}
    _, axes = pyplot.subplots(figsize=(8, 1.8))
    axes.barh(list(names)[::-1], [figure[n] / 1000 for n in names.values()][::-1], color=OURS)
    axes.set_xlabel(f"ms, of puts that were due at {content['figures'][0]['rate']:,.0f} a second")
    axes.grid(axis="y", visible=False)
    return svg()


def cells(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return html.escape(json.dumps(value) if isinstance(value, dict | list) else str(value))


def figures(content: Content) -> str:
    """As a table: a row for each figure."""
    rows = content["figures"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cells(row.get(name, ''))}" for name in names)
                   for row in rows)
    return f"<table><tr>{head}{body}</table>"


SHOWN: dict[str, tuple[str, Callable[[Content], str]]] = {
    "peers": ("Three nodes against others", peers),
    "store": ("A Store against lmdb, sqlite and RocksDB", store),
    "scaling": ("How it grows", scaling),
    "open_loop": ("Latency in an open loop", open_loop),
}


def page(contents: list[Content]) -> Iterator[str]:
    yield HEAD
    yield "<h1>dengine: benchmarks</h1>"
    for machine in dict.fromkeys(content["machine"] for content in contents):
        yield f"<p>{html.escape(machine)}</p>"
    order = [*SHOWN]
    for content in sorted(contents, key=lambda c: (
            order.index(c["benchmark"]) if c["benchmark"] in order else len(order))):
        title, shown = SHOWN.get(content["benchmark"], (content["benchmark"], figures))
        said = ", ".join(f"{k} {v}" for k, v in content["arguments"].items()
                         if k not in ("json", "dir") and len(v) < 40)
        yield f"<h2>{html.escape(title)}</h2><figure>{shown(content)}"
        yield f"<figcaption>{html.escape(said)}</figcaption></figure>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    contents = [json.loads(file.read_text()) for file in options.files]
    options.out.write_text("\n".join(page(contents)) + "\n")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
