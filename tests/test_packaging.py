import ast
import importlib
import inspect
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import evaluate
import mulo

ROOT = pathlib.Path(evaluate.__file__).resolve().parents[1]
ROOMS = ("mulo", "tasks", "meta_train", "evaluate", "configs", "checkpoints")
OPTIONAL_IMPORTS = {"huggingface_hub"}  # The extra "hub": only inside functions.
REQUIRED_IMPORTS = {"jax", "optax", "numpy", "safetensors", "msgpack"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    """What a wheel holds that was built, offline, from a copy with a fake release."""
    folder = tmp_path_factory.mktemp("wheel")
    source, out = folder / "source", folder / "out"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*ROOMS, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source / path.name)
    release = source / "checkpoints" / "mulo-test"
    release.mkdir()
    for name in ("model.safetensors", "card.json", "notes.txt"):
        (release / name).write_text("{}")
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("mulo-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_mulo_and_the_released_theta_and_nothing_else(wheel_names):
    expected = {str(p.relative_to(ROOT)) for p in (ROOT / "mulo").rglob("*.py")}
    expected |= {
        "mulo/" + str(p.relative_to(ROOT))
        for p in (ROOT / "checkpoints").rglob("*")
        if p.suffix in {".py", ".safetensors", ".json"}
        and "candidates" not in p.parts  # On the way to a release; in checkouts only.
    }
    expected |= {
        "mulo/checkpoints/mulo-test/model.safetensors",
        "mulo/checkpoints/mulo-test/card.json",
    }
    assert {n for n in wheel_names if ".dist-info/" not in n} == expected


def test_wheel_carries_the_license(wheel_names):
    assert [n for n in wheel_names if n.endswith("dist-info/licenses/LICENSE")]


def test_what_is_listed_is_public(wheel_names):
    assert any(f"mulo-{mulo.__version__}.dist-info" in name for name in wheel_names)
    for module in (mulo, mulo.mup, mulo.optimizers):
        listed = [name for name in dir(module) if not name.startswith("__")]
        for name in listed:
            value = getattr(module, name)
            home = getattr(value, "__module__", getattr(value, "__name__", "mulo"))
            assert name[0] != "_"
            assert (home or "mulo").split(".")[0] in ("mulo", "typing")  # Aliases.
    assert {"adamw", "load", "mup", "soap"} < set(dir(mulo))


def test_evaluate_is_the_checkouts_not_the_hugging_face_package():
    assert ROOT == pathlib.Path(__file__).resolve().parents[1]


def _imports(tree):
    """Top-level names that a module imports, with whether a function does it."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["mulo" if node.level else node.module or ""]
        else:
            continue
        for name in names:
            yield name.partition(".")[0], id(node) in inside


@pytest.mark.parametrize(
    "path", sorted((ROOT / "mulo").rglob("*.py")), ids=lambda p: p.name
)
def test_mulo_imports_only_what_the_wheel_requires(path):
    allowed = set(sys.stdlib_module_names) | REQUIRED_IMPORTS | {"mulo"}
    found = set(_imports(ast.parse(path.read_text())))
    wrong = {
        name
        for name, lazy in found
        if name not in allowed and not (lazy and name in OPTIONAL_IMPORTS)
    }
    assert not wrong


def _variants(module):
    """Names that ``get_config`` compares its variant with, and its default."""
    default = inspect.signature(module.get_config).parameters["variant"].default
    found = {default}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Compare) and any(
            isinstance(side, ast.Name) and side.id == "variant"
            for side in (node.left, *node.comparators)
        ):
            strings = [
                leaf.value
                for leaf in ast.walk(node)
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
            ]
            assert strings, f"{module.__name__}: compare variant with a literal."
            found.update(strings)
    return sorted(found)


CONFIGS = sorted(
    ".".join(path.relative_to(ROOT / "configs").with_suffix("").parts)
    for path in (ROOT / "configs").rglob("*.py")
    if not path.stem.startswith("_") and "def get_config(" in path.read_text()
)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds_in_every_variant_it_names(name):
    module = importlib.import_module(f"configs.{name}")
    default = module.get_config().to_dict()
    for variant in _variants(module):
        # Variants change values, not keys: a knob declared in one is in all.
        assert set(module.get_config(variant).to_dict()) == set(default), variant


@pytest.mark.parametrize("name", CONFIGS)
def test_config_refuses_an_unknown_variant_and_names_the_known(name):
    module = importlib.import_module(f"configs.{name}")
    with pytest.raises(ValueError, match="no-such-variant") as caught:
        module.get_config("no-such-variant")
    for variant in _variants(module):
        assert variant in str(caught.value)


# What a module of mulo may import: what lies on its own floor or on a lower one.
FLOORS = (
    {
        "_version",
        "_cores",
        "_files",
        "_hints",
        "_provenance",
        "_safe_sqrt",
        "_checks",
        "_transforms",
    },
    {"mup"},
    {"_designed", "_learned"},
    {"_thetas"},
    {"interop", "optimizers", "fetch", "__init__"},
)


def test_imports_inside_mulo_go_down_only():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    for path in sorted((ROOT / "mulo").rglob("*.py")):
        own = path.relative_to(ROOT / "mulo").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "mulo":
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = (node.module or "").removeprefix("mulo.").split(".")[:1]
                found = found if (node.module or "").startswith("mulo.") else []
            else:
                continue
            assert all(floor[name] <= floor[own] for name in found), (path, found)


_EACH_FIRST = """
import importlib, pathlib, sys
for path in sorted(pathlib.Path("meta_train").rglob("*.py")):
    for name in [name for name in sys.modules if name.startswith("meta_train")]:
        del sys.modules[name]
    parts = path.with_suffix("").parts
    if parts[-1] not in ("__init__", "__main__"):
        importlib.import_module(".".join(parts))
"""


def test_every_module_of_meta_training_may_be_imported_first():
    done = subprocess.run(
        [sys.executable, "-c", _EACH_FIRST], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
