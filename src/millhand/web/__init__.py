"""
The web page: shows and controls a fleet in the browser, as an ASGI application of its own or inside yours.

Names are imported when they are used, because settings read `UserConfig` also without the extra `web`.
"""

from typing import TYPE_CHECKING

from millhand.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from millhand.shells.settings.web_user import Role, User, UserConfig
    from millhand.web.app import Dashboard, dashboard
    from millhand.web.config import WebConfig
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "millhand.web.app": "Dashboard dashboard",
            "millhand.web.config": "WebConfig",
            "millhand.shells.settings.web_user": "Role User UserConfig",
        },
    )

__all__ = ["Dashboard", "Role", "User", "UserConfig", "WebConfig", "dashboard"]
