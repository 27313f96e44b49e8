"""The shop's settings, with a backend whose tasks have one attempt."""

from __future__ import annotations

from config.settings import *  # noqa: F403 - as Django's settings extend each other
from config.settings import INSTALLED_APPS, MILLHAND, TASKS

INSTALLED_APPS = [*INSTALLED_APPS, "django_cases"]
MILLHAND = {**MILLHAND, "HOOKS": ["django_cases.hooks.Stamp"], "SOFT_STOP_TIMEOUT": 5}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
TASKS = {**TASKS, "once": {**TASKS["default"], "OPTIONS": {"MAX_ATTEMPTS": 1}}}
