"""A configuration from a file, the environment and flags, in rising order.

Decides where each value comes from, and refuses what `dengine.schema` does not allow with one
`ConfigError` that names the source, the key, the value and the fix. Knows nothing of how a value is
used, nor of what a data directory holds. `python -m dengine.config` prints docs/configuration.md.
"""

import contextlib
import difflib
import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dengine.errors import ConfigError
from dengine.schema import (
    FIELDS,
    FLUSH,
    KEYS,
    RULES,
    SECTIONS,
    Batch,
    BatchPolicy,
    Cluster,
    Config,
    Field,
    Http,
    Limits,
    Member,
    Policy,
    Section,
    Strategy,
    split_address,
)

__all__ = ["Batch", "Cluster", "Config", "Http", "Limits", "Member", "Policy", "Strategy",
           "load", "loads", "single", "split_address"]  # fmt: skip

ENVIRONMENT = "DENGINE__"  # + SECTION__KEY


def load(path: str | Path, overrides: Mapping[str, object] = {},
         environ: Mapping[str, str] = os.environ) -> Config:
    """The file, overridden by the environment, overridden by `overrides` ({"http.port": 8081}).

    `.toml` may be left out of the path; an override of None is none.
    """
    file = Path(path)
    if not file.is_file():
        file = file.parent / (file.name.removesuffix(".toml") + ".toml")
    try:
        text = file.read_text("utf-8")
    except OSError as e:
        raise ConfigError(f"{file}: {e.strerror}; give the path of a .toml file") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"{file}: byte {e.start} is not UTF-8; save it as UTF-8") from None
    return loads(text, str(file), overrides, environ)


def loads(text: str, name: str, overrides: Mapping[str, object] = {},
          environ: Mapping[str, str] = {}) -> Config:
    """Like `load`, from the text of a file that errors call `name`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{name}: not TOML: {e}; correct it there") from None
    return _check(name, table, overrides, environ)


def single(directory: str | Path, *, strategy: Strategy = "DiskFirst",
           flush_policy: object = None, overrides: Mapping[str, object] = {}) -> Config:
    """One embedded node in `directory`. MemFirst without a policy is synced every 20 ms.

    A lower threshold than 10,000 would keep a lone writer syncing without a pause, and its writes
    wait for the pages under a sync: 3.0 instead of 1.8 us a put, measured with 100.
    """
    if flush_policy is None and strategy == "MemFirst":
        flush_policy = {"Batch": {"threshold": 10_000, "interval_ms": 20}}
    table = {"cluster": {"node_id": 1, "db_root_dir": str(directory),
                         "initial_cluster": [{"id": 1, "address": "127.0.0.1:9081"}]}}
    given = {"raft.persistence.strategy": strategy, FLUSH: flush_policy}
    return _check(str(directory), table, {**given, **overrides}, {})


class Setting(NamedTuple):
    value: object
    origin: str  # file, environment variable or flag


def _check(name: str, table: Mapping[str, object], overrides: Mapping[str, object],
           environ: Mapping[str, str]) -> Config:
    settings = dict(_from_table(table, name))
    settings |= _from_environment(environ)
    settings |= _from_overrides(overrides)
    nested: dict[str, Any] = {}
    for path, setting in settings.items():
        _check_type(path, setting)
        *sections, key = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = setting.value
    for path, field in FIELDS.items():
        if field.default is msgspec.NODEFAULT and path not in settings:
            raise ConfigError(f"{name}: {path} is missing; set it: {field.range}")
    config = msgspec.convert(nested, Config)
    for rule in RULES:
        value, other = _value(config, rule.key), _value(config, rule.other)
        if not rule.holds(value, other):
            origins = [settings[k].origin for k in (rule.key, rule.other) if k in settings]
            origin = next((o for o in origins if o != name), name)
            than = f" {rule.other} = {show(other)}" if rule.other else ""
            raise ConfigError(
                f"{origin}: {rule.key} = {show(value)}: must be {rule.law}{than}; {rule.fix}")
    if any(m.status == 2 for m in config.cluster.initial_cluster):
        logging.getLogger("dengine").warning("%s: status = 2 is read as 3 (active)", name)
    return config


def _value(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split(".") if path else ():
        value = getattr(value, name)
    return value


def _from_table(table: Mapping[str, object], origin: str,
                prefix: str = "") -> Iterator[tuple[str, Setting]]:
    for key, value in table.items():
        path = prefix + key
        if path not in KEYS:
            raise _unknown(origin, path, value)
        if path in FIELDS:
            yield path, Setting(value, origin)
        elif isinstance(value, dict):
            yield from _from_table(value, origin, path + ".")
        else:
            raise ConfigError(f"{origin}: {path} = {show(value)}: is a section; write [{path}]")


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Setting]]:
    for name in sorted(n for n in environ if n.startswith(ENVIRONMENT)):
        path, origin = name.removeprefix(ENVIRONMENT).lower().replace("__", "."), f"${name}"
        value: object = environ[name]
        if path not in FIELDS:
            raise _unknown(origin, path, value)
        try:
            msgspec.convert(value, FIELDS[path].type)
        except msgspec.ValidationError:  # not text, then as TOML writes it
            with contextlib.suppress(tomllib.TOMLDecodeError):
                value = tomllib.loads(f"value = {value}")["value"]
        yield path, Setting(value, origin)


def _from_overrides(overrides: Mapping[str, object]) -> Iterator[tuple[str, Setting]]:
    for path, value in overrides.items():
        if path not in FIELDS:
            raise _unknown("override", path, value)
        if value is not None:
            origin = FIELDS[path].extra("flag") or "override"
            yield path, Setting(msgspec.to_builtins(value, enc_hook=str), origin)


def _check_type(path: str, setting: Setting) -> None:
    field = FIELDS[path]
    try:
        msgspec.convert(setting.value, field.type)
    except msgspec.ValidationError as e:
        what, _, inside = str(e).partition(" - at `$")
        what, fix = what.partition(" matching regex")[0], f"use {field.range}"
        value: Any = setting.value
        for index, name in re.findall(r"\[(\d+)\]|\.(\w+)", inside):
            value = value[int(index) if index else name]
        if unknown := re.search("unknown field `(.+)`", what):
            names = [n for s in (Member, BatchPolicy, Batch) for n in s.__struct_encode_fields__]
            near = difflib.get_close_matches(unknown[1], names, 1)
            fix = "".join(f"did you mean {n}? " for n in near) + fix
        key = path + inside.removesuffix("`")
        message = f"{setting.origin}: {key} = {show(value)}: {what}; {fix}"
        raise ConfigError(message.replace("`", "")) from None


def _unknown(origin: str, path: str, value: object) -> ConfigError:
    leaves = {p.rpartition(".")[2]: p for p in KEYS}
    near = difflib.get_close_matches(path, KEYS, 1, 0.8) or [
        leaves[k] for k in difflib.get_close_matches(path.rpartition(".")[2], leaves, 1)]
    fix = f"did you mean {near[0]}?" if near else "remove it: this version has no such key"
    return ConfigError(f"{origin}: {path} = {show(value)}: unknown key; {fix}")


# -------------------------------------------------------------------------------- words
def show(value: object) -> str:
    """A value as TOML writes it."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case dict():
            return "{ " + ", ".join(f"{k} = {show(v)}" for k, v in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(show, value)) + "]"
        case Section():
            return show(msgspec.to_builtins(value))
    return str(value)


REFERENCE = """\
# Configuration

*Generated by `python -m dengine.config > docs/configuration.md` from `dengine/schema.py`.*

A file is TOML; `config/` has one for each of three nodes and one for a single node. The environment
overrides the file, `DENGINE__SECTION__KEY` with a TOML value, and flags of `dengine serve` override
both: `DENGINE__RAFT__ELECTION__ELECTION_TIMEOUT_MIN_MS=900`. `dengine config check FILE` says what
is wrong. An unknown key, a value outside its range and a broken rule are refused at the start,
with exit status 2 and one message: source, key, value and the fix.
"""


def reference() -> str:
    """docs/configuration.md"""
    lines = [REFERENCE]
    for section, definition in SECTIONS.items():
        rows = [_row(p, f) for p, f in FIELDS.items() if p.rpartition(".")[0] == section]
        if rows:
            lines += [f"## `[{section}]`", "", f"{definition.__doc__}", "",
                      "| key | default | unit | range | meaning |", "|---|---|---|---|---|",
                      *rows, ""]
    lines += ["## Rules between keys", ""]
    for rule in RULES:
        other = f" `{rule.other}`" if rule.other else ""
        lines.append(f"- `{rule.key}` must be {rule.law}{other}; {rule.fix}")
    return "\n".join(lines) + "\n"


def _row(path: str, field: Field) -> str:
    default = field.extra("default") or (
        "required" if field.default is msgspec.NODEFAULT else f"`{show(field.default)}`")
    flag = f"; flag `{f}`" if (f := field.extra("flag")) else ""
    cells = (f"`{path.rpartition('.')[2]}`", default, field.extra("unit"), field.range,
             f"{field.meta.description}{flag}")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(reference(), end="")
