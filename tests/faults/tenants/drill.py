"""Makes the tenants, sends messages in each, works them off, and prints who saw what, as JSON."""

import io
import json
import re

import django

django.setup()

import dramatiq  # noqa: E402
from asgiref.sync import async_to_sync  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import AsyncClient, Client  # noqa: E402
from django.test.utils import setup_test_environment  # noqa: E402
from django_tenants.utils import schema_context  # noqa: E402

import taskstate  # noqa: E402
from taskstate.models import Task  # noqa: E402
from tests.faults.tenants.models import Host, Place  # noqa: E402

SCHEMAS = ("public", "a", "b")
LIMIT_SECONDS = 60
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LIST = "/admin/taskstate/task/"


def make_site():
    """Make the schemas; each has a user and a superuser of the same keys."""
    call_command("migrate_schemas", "--shared", verbosity=0)
    for schema in SCHEMAS:
        place = Place(schema_name=schema)
        place.save(verbosity=0)
        Host.objects.create(domain=f"{schema}.example", tenant=place)
        with schema_context(schema):
            get_user_model().objects.create(pk=1, username=f"user-{schema}")
            get_user_model().objects.create_superuser("boss", pk=2)


def browser(schema, pk, client_class=Client):
    host = f"{schema}.example"
    client = client_class(**({"HTTP_HOST": host} if client_class is Client else {}))
    with schema_context(schema):
        client.force_login(get_user_model().objects.get(pk=pk))
    return client


def work_off():
    """Work like a worker of the site, in its threads: they are in no tenant's schema."""
    broker = dramatiq.get_broker()
    worker = dramatiq.Worker(broker, worker_timeout=20, worker_threads=4)
    worker.start()
    broker.join("default", timeout=LIMIT_SECONDS * 1000)
    worker.stop()
    assert taskstate.flush(LIMIT_SECONDS)


def ids_in(response):
    return set(UUID.findall(response.content.decode())) if response.status_code == 200 else set()


def seen_by_user(schema, pk, every):
    """Return route to what it shows."""
    client = browser(schema, pk)
    found = {
        "page": ids_in(client.get("/tasks/")),
        "newest": ids_in(client.get("/tasks/json/")),
        "mine": ids_in(client.get("/tasks/json/", {"since": "0", "mine": "1"})),
        "for_user": ids_in(client.get("/for-user/")),
        "by id": set(),
        "tag": set(),
        "events": async_to_sync(first_event)(browser(schema, pk, AsyncClient), schema),
    }
    for key in every:
        found["by id"] |= ids_in(client.get("/tasks/json/", {"id": key}))
        if 'data-status="done"' in client.get("/tag/", {"id": key}).content.decode():
            found["tag"].add(key)
    return found


async def first_event(client, schema):
    response = await client.get("/tasks/events/", X_FORWARDED_HOST=f"{schema}.example")
    stream = response.streaming_content.__aiter__()
    event = await stream.__anext__()
    await stream.aclose()
    return set(UUID.findall(event.decode()))


def seen_in_admin(schema, every):
    client = browser(schema, 2)
    rows = client.get(LIST).context["cl"].result_list
    found = {
        "admin list": {str(task.pk) for task in rows},
        "admin page": {key for key in every if is_there(client, f"{LIST}{key}/change/")},
    }
    names = {str(task.user) for task in rows}
    assert names <= {f"user-{schema}"}, names
    before = all_keys()
    client.post(LIST, {"action": "delete_selected", "_selected_action": every, "post": "yes"})
    found["admin delete"] = before - all_keys()
    return found


def all_keys():
    return {str(key) for key in Task.objects.values_list("pk", flat=True)}


def is_there(client, path):
    return client.get(path).status_code == 200


def main():
    setup_test_environment()  # For the contexts of templates.
    make_site()
    call_command("check", fail_level="WARNING", stdout=io.StringIO())
    for schema in SCHEMAS:
        assert browser(schema, 1).post("/send/").status_code == 200
    work_off()
    rows = list(Task.objects.values_list("pk", "tenant", "status"))
    every = [str(pk) for pk, _, _ in rows]
    report = {"rows": [(str(pk), tenant, status) for pk, tenant, status in rows]}
    report["seen"] = {
        schema: {
            str(pk): {route: sorted(ids) for route, ids in seen_by_user(schema, pk, every).items()}
            for pk in (1, 2)
        }
        for schema in SCHEMAS
    }
    for schema in SCHEMAS:
        shown = seen_in_admin(schema, every)
        report["seen"][schema]["admin"] = {route: sorted(ids) for route, ids in shown.items()}
    print(json.dumps(report))


main()
