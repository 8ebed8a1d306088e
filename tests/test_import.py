"""What `import moofusion` promises: quick, complete, documented."""

import importlib
import inspect
import subprocess
import sys

import pytest

import moofusion

PACKAGES = ("weights", "merging", "tasks", "problems", "algorithms", "comparison", "zoo", "testing")
HEAVY = ("torch", "transformers", "matplotlib", "datasets", "pymoo", "scipy", "pandas")


def _python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_moofusion_imports_nothing_heavy():
    loaded = set(_python("import sys, moofusion; print(*sys.modules)"))
    assert "moofusion" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize(("given", "used"), [(None, "10000"), ("77", "77")])
def test_threads_give_way_soon_unless_the_user_says_otherwise(monkeypatch, given, used):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    assert _python("import moofusion, os; print(os.environ['GOMP_SPINCOUNT'])") == [used]


def test_heavy_libraries_come_with_the_names_that_need_them():
    loaded = set(_python("import sys, moofusion; moofusion.ModelPool; print(*sys.modules)"))
    assert "moofusion.weights" in loaded
    assert "matplotlib" not in loaded


@pytest.mark.parametrize("name", moofusion.__all__)
def test_every_public_name_is_there(name):
    assert getattr(moofusion, name) is not None
    assert name in dir(moofusion)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'ModelPol'"):
        _ = moofusion.ModelPol


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_is_documented(package):
    """Classes and functions, and what classes offer beyond underscores."""
    module = importlib.import_module(f"moofusion.{package}")
    assert module.__doc__
    assert module.__all__
    things = {name: getattr(module, name) for name in module.__all__}
    assert [name for name in _undocumented(things)] == []


def _undocumented(things):
    for name, thing in things.items():
        if inspect.isclass(thing):
            if not _own_docstring(thing):
                yield name
            for key, member in vars(thing).items():
                function = member.fget if isinstance(member, property) else member
                function = getattr(function, "__func__", function)
                public = inspect.isfunction(function) and not key.startswith("_")
                if public and not inspect.getdoc(getattr(thing, key)):
                    yield f"{name}.{key}"
        elif inspect.isfunction(thing) and not thing.__doc__:
            yield name


def _own_docstring(thing):
    """Not inherited, and not made up by dataclasses."""
    text = vars(thing).get("__doc__")
    return bool(text) and not text.startswith(f"{thing.__name__}(")


def test_the_package_is_typed_and_versioned():
    from importlib.metadata import version
    from importlib.resources import files

    assert (files("moofusion") / "py.typed").is_file()
    assert moofusion.__version__ == version("moofusion")


def test_contracts_without_pytest_say_what_to_install():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'pytest' else find(name, *rest)\n"
        "try:\n    import moofusion.testing\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    said = " ".join(_python(code))
    assert said.startswith("ConfigurationError moofusion.testing needs pytest")
    assert "pip install 'moofusion[testing]'" in said


@pytest.mark.parametrize("package", ["", "algorithms", "baselines", "surrogates", *PACKAGES[:-1]])
def test_every_public_class_has_a_runnable_example(package):
    module = importlib.import_module(f"moofusion.{package}".rstrip("."))
    public = [value for name in module.__all__ if inspect.isclass(value := getattr(module, name))]
    without = [
        c.__name__ for c in public if ">>>" not in c.__doc__ and not issubclass(c, Exception)
    ]
    assert without == []
