from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import blip_bootstrap
from blip_bootstrap.audit import audits
from blip_bootstrap.loop import rounds
from blip_bootstrap.query import questions, views

NAMES = {
    "load_config": blip_bootstrap.config.load_config, "run_rounds": rounds.run_rounds, "connect": views.connect,
    "ask": questions.query, "audit_round": audits.audit,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_the_function_that_it_stands_for(name: str) -> None:
    assert getattr(blip_bootstrap, name) is NAMES[name]
    assert name in dir(blip_bootstrap)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'runn_rounds'"):
        getattr(blip_bootstrap, "runn_rounds")  # noqa: B009


def test_importing_the_package_imports_no_library_that_takes_long() -> None:
    program = (
        "import sys, blip_bootstrap; before = set(sys.modules);"
        "print(sorted({'pyarrow', 'torch', 'ray', 'duckdb', 'pydantic'} & before));"
        "from blip_bootstrap import connect; print('torch' in sys.modules, 'duckdb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False True"]


def test_the_stub_declares_the_same_names_from_the_same_places() -> None:
    stub = ast.parse(Path(blip_bootstrap.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    declared = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in stub.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    defined = {name: getattr(blip_bootstrap, name) for name in declared if name}
    assert defined == NAMES
    for name, place in declared.items():
        module, _, function = place.rpartition(".")
        assert getattr(sys.modules[module], function) is NAMES[str(name)]
