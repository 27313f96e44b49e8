from __future__ import annotations

# Django's own runner runs these, see `test_django_app.py`.
collect_ignore = ["django_cases"]
