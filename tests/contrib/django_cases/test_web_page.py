"""Claims about the web page in a Django project."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from unittest import skipUnless

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.core.asgi import get_asgi_application
from django.test import Client, TransactionTestCase, override_settings

from millhand import ConfigError
from millhand.contrib.django import client
from shop.jobs import Confirm

HAS_PAGE = find_spec("starlette") is not None and find_spec("httpx") is not None
if HAS_PAGE:  # Django 6 is tested without the extra `web`
    import httpx

    from millhand.contrib.django.web import with_web_page


async def ended(application: Callable[..., Awaitable[None]]) -> None:
    """Start and end an application as a server does; the end closes the page's connections."""
    events = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        return {"type": next(events)}

    async def send(message: dict[str, str]) -> None:
        assert message["type"].endswith(".complete"), message

    await application({"type": "lifespan"}, receive, send)


@skipUnless(HAS_PAGE, "the extra `web` and httpx are not installed")
class PageCase(TransactionTestCase):
    def user(self, name: str, *permissions: str, is_staff: bool = True) -> str:
        """Return the session of a new user with permissions of jobs."""
        user = User.objects.create_user(name, is_staff=is_staff)
        user.user_permissions.set(
            Permission.objects.filter(codename__in=[f"{one}_job" for one in permissions])
        )
        browser = Client()
        browser.force_login(user)
        return browser.cookies["sessionid"].value

    async def statuses(
        self, path: str, sessions: dict[str, str], aliases: Sequence[str] = ()
    ) -> dict[str, object]:
        """Return what each session gets at a path, and the role that the page shows."""
        application = with_web_page(get_asgi_application(), "/jobs", aliases=aliases)
        found: dict[str, object] = {}
        transport = httpx.ASGITransport(application)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            for name, session in sessions.items():
                answer = await http.get(path, headers={"Cookie": f"sessionid={session}"})
                roles = [
                    role for role in ("viewer", "operator", "admin") if f"{name} · {role}" in answer.text
                ]
                found[name] = roles[0] if roles else answer.status_code
        await ended(application)
        return found

    async def test_staff_has_the_role_of_its_permissions(self) -> None:
        """The permissions of the admin decide who sees the page, and what they may do there."""
        make = sync_to_async(self.user)
        sessions = {
            "ada": await make("ada", "view"),
            "bob": await make("bob", "view", "change"),
            "cleo": await make("cleo", "view", "change", "add", "delete"),
            "dan": await make("dan"),
            "eve": await make("eve", "view", is_staff=False),
            "nobody": "",
            "forged": "x" * 32,
        }
        job = (await sync_to_async(client().insert)(Confirm(1))).job

        assert await self.statuses(f"/jobs/jobs/{job.id}", sessions) == {
            "ada": "viewer",
            "bob": "operator",
            "cleo": "admin",
            "dan": 403,
            "eve": 403,
            "nobody": 403,
            "forged": 403,
        }
        await sync_to_async(User.objects.filter(username="ada").update)(is_active=False)
        assert await self.statuses("/jobs", {"ada": sessions["ada"]}) == {"ada": 403}

    async def test_other_paths_are_django_s(self) -> None:
        """Only paths below the page's are the page's."""
        assert await self.statuses("/jobsx", {"ada": ""}) == {"ada": 404}
        assert await self.statuses("/admin/login/", {"ada": ""}) == {"ada": 200}

    @override_settings(ALLOWED_HOSTS=["*"])
    async def test_admin_links_to_the_page(self) -> None:
        """A job in the admin links to its page, where the page is mounted."""
        await self.statuses("/jobs", {})
        keeper = await sync_to_async(User.objects.create_superuser)("keeper")
        await sync_to_async(self.client.force_login)(keeper)
        job = (await sync_to_async(client().insert)(Confirm(1))).job
        shown = await sync_to_async(self.client.get)(f"/admin/millhand/job/{job.id}/change/")

        assert f'href="/jobs/jobs/{job.id}"' in shown.content.decode()

    @override_settings(ALLOWED_HOSTS=["*"])
    async def test_page_of_aliases_has_their_names(self) -> None:
        """With aliases of DATABASES, each has its pages below its name, and the admin links there."""
        keeper = await sync_to_async(User.objects.create_superuser)("keeper")
        await sync_to_async(self.client.force_login)(keeper)
        sessions = {"keeper": self.client.cookies["sessionid"].value}
        job = (await sync_to_async(client().insert)(Confirm(1))).job
        path = f"/jobs/db/default/jobs/{job.id}"

        assert await self.statuses(path, sessions, aliases=["default"]) == {"keeper": "admin"}
        shown = await sync_to_async(self.client.get)(f"/admin/millhand/job/{job.id}/change/")
        assert f'href="{path}"' in shown.content.decode()

    def test_path_is_checked(self) -> None:
        """A path that would match nothing is refused."""
        with pytest.raises(
            ConfigError, match="path must begin with a slash and not end with one, got 'jobs/'"
        ):
            with_web_page(get_asgi_application(), "jobs/")
