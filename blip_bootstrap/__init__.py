"""CapFilt, closed: download, caption, filter, audit, train, and the next round (BLIP, arXiv 2201.12086).

Five functions are to be had from here, each imported when it is first asked for:

- `load_config(path, settings)`: a configuration from YAML and `a.b=c` settings;
- `run_rounds(config, last, print)`: make rounds 0 to `last` of a run, what is missing or out of date of them;
- `connect(root)`: a read-only DuckDB connection with the views of a run;
- `ask(connection, sql)`: the answer to one question as an Arrow table;
- `audit_round(root, number)`: the answers to the audits of a round.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Start-up time: `import blip_bootstrap` must import neither pyarrow nor torch. Types are in __init__.pyi. Two functions
# have another name here than at home, since `query` and `audit` are packages of this one.
_HOMES = {
    "load_config": ("blip_bootstrap.config", "load_config"),
    "run_rounds": ("blip_bootstrap.loop.rounds", "run_rounds"),
    "connect": ("blip_bootstrap.query.views", "connect"),
    "ask": ("blip_bootstrap.query.questions", "query"),
    "audit_round": ("blip_bootstrap.audit.audits", "audit"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _HOMES[name]
    found = globals()[name] = getattr(import_module(module), function)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
