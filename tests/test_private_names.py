"""Names that other libraries keep to themselves stand in few files, which give the reasons, and nowhere else."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType

from commands.lightning import import_classes

ROOT = Path(__file__).parents[1]
OWN = ("modules", "datamodules", "callbacks", "commands")
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit", "_"}
"""Of named tuples and of `os`, whose documentation has them; and what stands for a value that nobody reads."""

INTERNALS = {"fit_loop", "epoch_loop"}
"""Attributes of Lightning's trainer without an underscore that are no part of its documented interface."""

TORCHRL = "torchrl_parts"
"""The file whose classes are parts of TorchRL's buffers, and which alone names what is private of TorchRL."""

DOCUMENTED = {
    "Module._apply": "how a module hears that it is moved or cast; torch's own modules override it, too",
    "EnvBase._reset": "TorchRL's documentation asks for it",
    "EnvBase._step": "TorchRL's documentation asks for it",
    "EnvBase._set_seed": "TorchRL's documentation asks for it",
}
"""Private methods that a library's documentation tells subclasses to override."""


def own_files() -> list[Path]:
    return [ROOT / "reverie.py", *(file for package in OWN for file in sorted((ROOT / package).rglob("*.py")))]


def is_for_private_names(module: str) -> bool:
    return module.endswith(("_private", TORCHRL))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def defined_names(tree: ast.AST) -> set[str]:
    """Names that a file gives to something: functions, classes, attributes of `self`, variables."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def named(node: ast.AST) -> tuple[str, list[str]] | None:
    """Whose names a node uses, and which: of an attribute, of an import, or of `getattr` with a text."""
    if isinstance(node, ast.Attribute):
        return ast.unparse(node.value), [node.attr]
    if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] not in OWN:
        return "", [*node.module.split("."), *(alias.name for alias in node.names)]
    if isinstance(node, ast.Import):
        return "", [part for alias in node.names for part in alias.name.split(".")]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
        text = node.args[1]
        return ast.unparse(node.args[0]), [text.value] if isinstance(text, ast.Constant) else []
    return None


def with_class(tree: ast.AST, cls: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node below this one, and the name of the class around it, empty outside of all."""
    for node in ast.iter_child_nodes(tree):
        yield node, cls
        yield from with_class(node, node.name if isinstance(node, ast.ClassDef) else cls)


def foreign_names(tree: ast.AST, inherited: dict[str, set[str]]) -> Iterator[str]:
    """Line and code of each use of a private name that nothing of ours has.

    Args:
        tree: of a file.
        inherited: names that `self` has in each class of ours.
    """
    own = defined_names(tree)
    for node, cls in with_class(tree):
        if (found := named(node)) is None:
            continue
        owner, names = found
        known = inherited.get(cls, set()) if owner in ("self", "cls", "super()") else own if owner else set()
        if any((is_private(name) and name not in known) or name in INTERNALS for name in names):
            yield f"{getattr(node, 'lineno', '?')}: {ast.unparse(node)}"


def names_of_self(trees: Iterable[ast.AST]) -> dict[str, set[str]]:
    """The names that `self` has in each class of these files: the class's own, and those of the bases among them.

    Classes of one name are taken together.
    """
    own: dict[str, set[str]] = {}
    parents: dict[str, set[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own.setdefault(node.name, set()).update(defined_names(node))
                bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
                parents.setdefault(node.name, set()).update(bases)
    return {cls: set().union(*(own.get(name, set()) for name in ancestors(cls, parents))) for cls in own}


def ancestors(cls: str, parents: dict[str, set[str]]) -> set[str]:
    """A class and all that it derives from, by name."""
    found: set[str] = set()
    ahead = [cls]
    while ahead:
        if (name := ahead.pop()) not in found:
            found.add(name)
            ahead += parents.get(name, ())
    return found


def test_private_names_of_libraries_stand_in_the_files_for_them_alone() -> None:
    trees = {file: ast.parse(file.read_text()) for file in own_files()}
    inherited = names_of_self(trees.values())
    found = [
        f"{file.relative_to(ROOT)}:{use}"
        for file, tree in trees.items()
        if not is_for_private_names(file.stem)
        for use in foreign_names(tree, inherited)
    ]
    assert not found, "\n".join(found)


def overridden() -> Iterator[tuple[str, str]]:
    """Class and `Base.method` of each private method that takes the place of one of a library's class."""
    import_classes()
    classes = {
        value
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in OWN and not is_for_private_names(name)
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == name
    }
    for cls in classes:
        for name in (n for n, value in vars(cls).items() if isinstance(value, FunctionType) and is_private(n)):
            owners = [base for base in cls.__mro__[1:] if name in vars(base)]
            if owners and owners[-1].__module__.split(".")[0] not in OWN:
                yield f"{cls.__module__}.{cls.__qualname__}", f"{owners[-1].__name__}.{name}"


def test_private_methods_of_libraries_are_overridden_where_they_are_documented_alone() -> None:
    found = {use for _, use in overridden()}
    assert found - DOCUMENTED.keys() == set(), sorted(overridden())
    assert DOCUMENTED.keys() - found == set()


def test_a_use_of_each_kind_is_found() -> None:
    uses = (
        "import torch._dynamo", "from torch.utils import _pytree", "from minari.dataset._storages import x",
        "parser._actions", "getattr(action, '_typehint', None)", "self._trainer", "trainer.fit_loop.x",
    )  # fmt: skip
    assert all(list(foreign_names(ast.parse(use), {})) for use in uses)


def test_a_class_has_its_own_names_and_those_of_its_bases() -> None:
    base = ast.parse("class Base:\n def _x(self): self._y = 1\nclass Other:\n _z = 1")
    tree = ast.parse(
        "class A(files.Base[int]):\n def f(self):\n  self._w = 1\n"
        "  return self._w, self._x(), self._y, row._replace(z=1)\n"
        "class B:\n def f(self):\n  return self._w, self._z"
    )
    assert list(foreign_names(tree, names_of_self([base, tree]))) == ["7: self._w", "7: self._z"]
