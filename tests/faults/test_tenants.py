"""A site with a schema per tenant, by django-tenants: users of all tenants have the same keys."""

import importlib.util
import json
import sys
from collections import Counter

import pytest

from tests.faults import private
from tests.support.processes import environment, run_script

#: What the site's view sends: one at once, delayed, retried, with a child, behind another one.
TASKS = 6
LIMIT_SECONDS = 240


@pytest.mark.skipif(sys.version_info < (3, 10), reason="django-tenants 4 needs Python 3.10")
def test_no_user_sees_a_task_of_another_tenant(postgres, report):
    """By no route, though the messages are worked off by threads that are in no tenant's schema."""
    assert importlib.util.find_spec("django_tenants"), "it belongs to what the drills need"
    with private.database_on(postgres, "tenants") as url:
        env = environment(
            "default", DJANGO_SETTINGS_MODULE="tests.faults.tenants.settings", DRILL_DATABASE=url
        )
        found = json.loads(run_script("import tests.faults.tenants.drill", env, LIMIT_SECONDS))

    rows = found["rows"]
    counts = Counter((tenant, status) for _, tenant, status in rows)
    assert counts == {("", "done"): TASKS, ("a", "done"): TASKS, ("b", "done"): TASKS}
    for schema, tenant in (("public", ""), ("a", "a"), ("b", "b")):
        own = sorted(pk for pk, name, _ in rows if name == tenant)
        by_user = found["seen"][schema]
        assert by_user["1"] == dict.fromkeys(by_user["1"], own)
        staff = {
            route: [] if route in {"page", "mine", "for_user"} else own for route in by_user["2"]
        }
        assert by_user["2"] == staff
        assert by_user["admin"] == dict.fromkeys(by_user["admin"], own)
    routes = sum(len(seen) for by_user in found["seen"].values() for seen in by_user.values())
    report(
        f"{len(rows)} tasks of 3 schemas, {routes} looks by users with equal keys: each saw its own"
    )
