"""Serve the web page of the schema `sys.argv[2]` in the database `sys.argv[1]` on the open socket `sys.argv[3]`."""

from __future__ import annotations

import socket
import sys

import uvicorn

from millhand.web import Role, User, WebConfig, dashboard

if __name__ == "__main__":
    url, schema, descriptor = sys.argv[1:]
    user = User(name="bench", role=Role.VIEWER)
    app = dashboard(url, WebConfig(schema=schema, authenticate=lambda _: user))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    server.run(sockets=[socket.socket(fileno=int(descriptor))])
