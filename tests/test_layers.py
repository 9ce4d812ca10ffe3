"""Imports point down: from what reads rows to what knows nothing of tasks."""

import grimp
import pytest

pytestmark = pytest.mark.once

#: The modules and folders of the package, from the top.  Those of one layer don't import each
#: other.
LAYERS = (
    {"actors", "admin", "apps", "management", "migrations", "templatetags", "testing", "urls"},
    {"checks", "views"},
    {"middleware", "resending", "retention", "visibility"},
    {"tracking"},
    {"writer"},
    {"stores"},
    {"models"},
    {"tenants"},
    {"transitions"},
    {"conf", "signals", "version"},
    {"utils"},
)


@pytest.fixture
def graph():
    """The imports of the package: at the top of a module, in a function, or for types alone."""
    return grimp.build_graph("taskstate", cache_dir=None)


def test_imports_point_down(graph):
    """By whatever way."""
    found = graph.find_illegal_dependencies_for_layers(LAYERS, containers={"taskstate"})

    ways = [way for one in found for way in one.routes]
    assert {(*sorted(way.heads), *way.middle, *sorted(way.tails)) for way in ways} == set()


def test_the_package_of_the_views_imports_none_of_them(graph):
    """``runserver`` imports the URLs and the template tags in two threads at once.  If one imported
    the views through their package, and the other one of them directly, they could deadlock."""
    assert graph.find_modules_directly_imported_by("taskstate.views") == set()


def test_each_module_has_its_layer(graph):
    """A new one as well."""
    names = {name for layer in LAYERS for name in layer}

    assert graph.find_children("taskstate") == {f"taskstate.{name}" for name in names}


def test_no_module_of_tests_imports_another_one():
    """What several of them use stands in a module that holds no tests, or is a fixture."""
    graph = grimp.build_graph("tests", cache_dir=None)
    modules = {
        name
        for name in graph.modules
        if name.rpartition(".")[2].startswith("test_") or name.endswith(".conftest")
    }

    importers = {name: graph.find_modules_that_directly_import(name) for name in modules}
    assert {name for name in importers if importers[name]} == set()
    assert __name__ in modules
