"""The shapes in the signatures of `blip_training`, checked at every call that the test process makes."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

import blip_training

PACKAGES = ("blip_bootstrap", "blip_pipelines", "blip_training")
CHECKER = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float

Checked = dict[Callable[..., Any], Callable[..., Any]]


def check_shapes() -> None:
    """From now on a call raises TypeCheckError where its tensors are not as the function's annotations say."""
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(blip_training.__path__, "blip_training.")]
    late = []
    for module in modules:
        try:
            exec(_typing_imports(module), vars(module))
        except ImportError:  # of a name that another module has for type checkers alone
            late.append(module)
    for module in late:
        exec(_typing_imports(module), vars(module))
    checked: Checked = {}
    for module in modules:
        owners: list[ModuleType | type] = [module, *_classes(module)]
        for owner in owners:
            _check(owner, module, checked)
    for module in [m for name, m in sys.modules.items() if name.split(".")[0] in PACKAGES]:
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType) and value in checked:
                setattr(module, name, checked[value])


def _typing_imports(module: ModuleType) -> CodeType:
    """What `module` imports for type checkers alone; made once all modules are there, so that no circle matters."""
    tree = ast.parse(inspect.getsource(module))
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return compile(ast.Module([line for block in blocks for line in block.body], []), str(module.__file__), "exec")


def _classes(module: ModuleType) -> Iterator[type]:
    return (c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__)


def _check(owner: ModuleType | type, module: ModuleType, checked: Checked) -> None:
    """Check the functions that `owner` itself defines and whose signature has a shape."""
    for name, function in list(vars(owner).items()):
        if isinstance(function, FunctionType) and function.__module__ == module.__name__ and _has_shapes(function):
            checked[function] = _checked(function)
            setattr(owner, name, checked[function])


def _has_shapes(function: FunctionType) -> bool:
    return any("[Tensor, '" in str(kind) or kind == "Ids" for kind in function.__annotations__.values())


def _checked(function: FunctionType) -> Callable[..., Any]:
    function.__annotations__ = inspect.get_annotations(function, eval_str=True)
    checked = jaxtyped(typechecker=CHECKER)(function)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        # The compiler would trace the checks, not the function.
        return function(*args, **options) if torch.compiler.is_compiling() else checked(*args, **options)

    return call
