"""Serve the web page of the schema `sys.argv[2]` in the database `sys.argv[1]` on the open socket `sys.argv[3]`."""

from __future__ import annotations

import socket
import sys

import uvicorn

from millhand.web import dashboard
from millhand.web.app import WebConfig

if __name__ == "__main__":
    url, schema, descriptor = sys.argv[1:]
    app = dashboard(url, WebConfig(schema=schema))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    server.run(sockets=[socket.socket(fileno=int(descriptor))])
