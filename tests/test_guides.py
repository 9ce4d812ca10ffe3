"""The blocks of the guides run, and do what the text around them promises."""

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import django
import pytest
import uvicorn
import yaml
from django.core.management import get_commands, load_command_class
from django.db import connections

from tests.support import documents
from tests.support.guides import CHECKS, read
from tests.support.limits import LIMIT_SECONDS
from tests.support.processes import ROOT

PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
]
#: Those whose reader builds something.
GUIDES = [page for page in PAGES if re.match("docs/(guides/|tutorial)", page)]
#: Those that ``.ci/quickstart`` follows.
FOLLOWED = ["docs/guides/testing.md", "docs/tutorial.md"]

#: What the guides take for granted.  The files of the first one are in all projects.  Two stand in
#: for packages that are not installed.
FILES = {
    "tracking.md": {
        "settings.py": """
ALLOWED_HOSTS = [".localhost", "testserver"]
INSTALLED_APPS += ["shop"]
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.stub.StubBroker",
    "OPTIONS": {},
    "MIDDLEWARE": ["dramatiq.middleware.Retries", "dramatiq.middleware.Pipelines"],
}
""",
    },
    "pages.md": {
        "settings.py": """
TEMPLATES[0]["DIRS"] = [BASE_DIR / "templates"]
LOCALE_PATHS = [BASE_DIR / "locale"]
""",
        "templates/site.html": "<nav>My site</nav>{% block main %}{% endblock %}",
        "shop/templates/shop/news.html": """
{% load taskstate %}{% for task in tasks %}{% task_progress task %}{% endfor %}
""",
    },
    "retention.md": {
        "settings.py": 'DRAMATIQ_BROKER["MIDDLEWARE"] += ["periodiq.PeriodiqMiddleware"]',
        "periodiq.py": """
import dramatiq

cron = str

class PeriodiqMiddleware(dramatiq.Middleware):
    actor_options = {"periodic"}
""",
    },
    "resending.md": {
        "shop/encoders.py": "import dramatiq\n\nclass Encoder(dramatiq.JSONEncoder):\n    pass",
    },
    "tenants.md#A schema per tenant": {
        "settings.py": """
DRAMATIQ_BROKER["MIDDLEWARE"].insert(0, "mysite.middleware.TenantMiddleware")
""",
        "django_tenants/utils.py": """
import contextlib
from django.db import connection

def get_public_schema_name():
    return "public"

@contextlib.contextmanager
def schema_context(name):
    before = connection.schema_name
    connection.set_schema(name)
    yield
    connection.set_schema(before)
""",
    },
    "deployment.md": {"settings.py": 'TASKSTATE = {"FLUSH_INTERVAL": 3600}'},
}


def run(folder, *command):
    """Run Python in a project."""
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": str(ROOT)},
        timeout=LIMIT_SECONDS * 2,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout


def follow(folder, guide):
    """Write the files of a guide, and before them what it takes for granted."""
    for files in (FILES.get(guide, {}), documents.files(read(guide))):
        for name, code in files.items():
            documents.write(folder, name, code)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose reader has followed the first guide."""
    folder = tmp_path_factory.mktemp("project")
    run(folder, "-m", "django", "startproject", "mysite", ".")
    run(folder, "manage.py", "startapp", "shop")
    follow(folder, "tracking.md")
    run(folder, "manage.py", "migrate", "--verbosity=0")
    return folder


@pytest.mark.parametrize("guide", CHECKS)
def test_the_blocks_of_a_guide_run(guide, project, tmp_path):
    """In a project of its own."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    if guide != "tracking.md":
        follow(folder, guide)

    code = "import django; django.setup(); from tests.support import guides; "
    run(folder, "-c", f"{code}guides.check({guide!r})")


@pytest.mark.parametrize("page", GUIDES)
def test_each_block_of_python_is_run(page):
    """Or a comment says why not."""
    blocks = documents.blocks((ROOT / page).read_text("utf-8"))
    marked = [block for block in blocks if block.kind]
    if page in FOLLOWED:
        assert page in (ROOT / ".ci" / "quickstart").read_text("utf-8")
    else:
        name = page.rpartition("/")[2]
        texts = [read(guide) for guide in CHECKS if guide.partition("#")[0] == name]
        checked = [block for text in texts for block in documents.blocks(text) if block.kind]
        assert checked == marked

    assert [block.code for block in blocks if block.language == "python" and not block.kind] == []
    assert all(block.name for block in marked if block.kind != "shell")


PARSERS = {
    "python": lambda text: ast.parse(textwrap.dedent(text)),  # It may be a part of a class.
    "json": json.loads,
    "yaml": yaml.safe_load,
    "ini": lambda text: configparser.ConfigParser().read_string(text),
}


@pytest.mark.parametrize("page", PAGES)
def test_each_block_can_be_parsed(page):
    for block in documents.blocks((ROOT / page).read_text("utf-8")):
        PARSERS.get(block.language, len)(block.code)


def calls(text):
    """Return the names and arguments of the calls of manage.py: in sentences, in blocks, and in the
    JSON of a Dockerfile."""
    wrapped = re.compile(r"(?<!`)`[^`\n]+\n[^`\n]+`(?!`)")
    text = wrapped.sub(lambda found: " ".join(found[0].split()), text).replace('", "', " ")
    return re.findall(r"(?:`|python )manage\.py ([^`|\"\n]+)", text)


@pytest.mark.skipif(django.VERSION < (4, 0), reason="options of later releases are named as well")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_their_options_exist(page, monkeypatch):
    monkeypatch.setitem(connections.settings, "tasks", {})  # Some name a database of their own.
    for call in calls((ROOT / page).read_text("utf-8")):
        name, *arguments = call.split()
        command = load_command_class(get_commands()[name], name)
        command.create_parser("manage.py", name).parse_args(arguments)


def test_calls_are_found():
    text = 'By `manage.py\n a`.\n$ python manage.py b -c | d\nCMD ["python", "manage.py", "e", "f"]'

    assert [call.strip() for call in calls(text)] == ["a", "b -c", "e f"]


def test_the_options_of_uvicorn_exist():
    (call,) = re.findall(r"\$ uvicorn (.+)", read("deployment.md"))

    assert uvicorn.main.make_context("uvicorn", call.split()).params["app"]
