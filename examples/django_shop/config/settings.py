"""Settings of a small shop. They read `DATABASE_URL`, as the other examples do."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from psycopg.conninfo import conninfo_to_dict

where = conninfo_to_dict(
    os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
)

ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": where.get("dbname", ""),
        "HOST": where.get("host", ""),
        "PORT": where.get("port", ""),
        "USER": where.get("user", ""),
        "PASSWORD": where.get("password", ""),
    }
}
DEBUG = os.environ.get("DEBUG") == "1"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "millhand.contrib.django",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "config.urls"
SECRET_KEY = "only for an example"  # noqa: S105
STATIC_URL = "static/"
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
TIME_ZONE = "UTC"
USE_TZ = True

# Fields of `millhand.Config`. Workers and periodic jobs are in shop/jobs.py.
MILLHAND = {"QUEUES": {"default": 20, "mail": {"max_workers": 5}}, "SOFT_STOP_TIMEOUT": "8s"}

# Django's own tasks since 6.0, or those of the package django-tasks before.
has_tasks = find_spec("django.tasks") is not None
backend = "tasks" if has_tasks else "backport"
TASKS = {
    "default": {
        "BACKEND": f"millhand.contrib.django.{backend}.MillhandBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"MAX_ATTEMPTS": 3},
    }
}
