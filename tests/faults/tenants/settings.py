"""The settings of the site: users are per tenant, and the tasks of all in the shared schema."""

import os

from benchmarks import services

SECRET_KEY = "drill"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
# An AsyncClient has a host of its own.
USE_X_FORWARDED_HOST = True
DATABASES = {
    "default": {
        **services.database(os.environ["DRILL_DATABASE"]),
        "ENGINE": "django_tenants.postgresql_backend",
    }
}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
TENANT_MODEL = "tenants.Place"
TENANT_DOMAIN_MODEL = "tenants.Host"
TENANT_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
]
SHARED_APPS = [
    "django_tenants",
    "tests.faults.tenants",
    *TENANT_APPS,
    "django_dramatiq",
    "taskstate",
]
INSTALLED_APPS = SHARED_APPS
ROOT_URLCONF = "tests.faults.tenants.site"
MIDDLEWARE = [
    "django_tenants.middleware.main.TenantMainMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
STATIC_URL = "/static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.stub.StubBroker",
    "OPTIONS": {},
    "MIDDLEWARE": [
        "dramatiq.middleware.Pipelines",
        "dramatiq.middleware.Retries",
        "tests.faults.tenants.middleware.CloseConnections",
        "taskstate.middleware.StateMiddleware",
    ],
}
TASKSTATE = {"TENANT": "tests.faults.tenants.site.current_tenant", "KEEP_MESSAGE": True}
