"""The web page: shows and controls a fleet in the browser, as an ASGI application of its own or inside yours."""

from millhand.web.app import Dashboard, dashboard
from millhand.web.user import Role, User

__all__ = ["Dashboard", "Role", "User", "dashboard"]
