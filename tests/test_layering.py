import ast
from pathlib import Path

import pytest

import asyncdicom

PACKAGE = Path(asyncdicom.__file__).parent
LAYERS = (
    "errors",
    "first_bytes",
    "turns",
    "uids",
    "elements",
    "presentation",
    "pdu",
    "command",
    "part10",
    "receive_buffer",
    "upper_layer",
    "dimse",
    "audit/messages",
)
"""Above the waterline, each may import what stands before it."""
STRANGERS = {
    "asyncio",
    "socket",
    "ssl",
    "threading",
    "time",
    "os",
    "select",
    "selectors",
    "uvloop",
    "concurrent",
    "subprocess",
    "multiprocessing",
    "signal",
    "pathlib",
    "io",
    "random",
    "secrets",
    "datetime",
    "logging",
    "pydicom",
    "cryptography",
}
"""No I/O, no clock, no chance, and nothing that takes long to import."""

above_the_waterline = pytest.mark.parametrize("name", LAYERS)
every_module = pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)


@above_the_waterline
def test_a_module_above_the_waterline_knows_no_io(name):
    assert foreign(PACKAGE / f"{name}.py") & STRANGERS == set()


@above_the_waterline
def test_imports_only_go_downwards(name):
    allowed = set(LAYERS[: LAYERS.index(name)])
    assert own(PACKAGE / f"{name}.py") <= allowed


def test_the_upper_layer_and_dimse_do_not_know_each_other():
    assert "dimse" not in own(PACKAGE / "upper_layer.py")
    assert "upper_layer" not in own(PACKAGE / "dimse.py")


@above_the_waterline
def test_imports_stand_at_the_top_of_a_module(name):
    tree = parse(PACKAGE / f"{name}.py")
    inside = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert inside == []


@every_module
def test_all_names_only_what_exists(path):
    tree = parse(path)
    if len(tree.body) > 1 and path.name != "__main__.py":  # more than a docstring, and to be imported
        assert exported(tree) is not None, "no __all__"
        later = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"]
        checked = [node for node in tree.body if isinstance(node, ast.If)] if later else []
        assert set(exported(tree)) <= defined(tree).union(*(defined(node) for node in checked))


@above_the_waterline
def test_all_names_every_public_class_and_function(name):
    tree = parse(PACKAGE / f"{name}.py")
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert public <= set(exported(tree))


@every_module
def test_a_module_begins_with_what_it_owns(path):
    assert ast.get_docstring(parse(path))


def parse(path):
    return ast.parse(path.read_text("utf-8"))


def imports(path):
    return [node for node in ast.walk(parse(path)) if isinstance(node, ast.Import | ast.ImportFrom)]


def foreign(path):
    """The top-level packages of others that a module imports."""
    found = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif not node.level:
            found.add(node.module.split(".")[0])
    return found


def own(path):
    """The modules of this package that a module imports, for type checking too."""
    found = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("asyncdicom."))
        elif node.level or node.module.split(".")[0] == "asyncdicom":
            module = (node.module or "").removeprefix("asyncdicom").strip(".").split(".")[0]
            found.update([module] if module else [alias.name for alias in node.names])
    return found


def exported(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def defined(tree):
    """The names that a module's top level binds."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
        else:
            found.update(
                name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            )
    return found
