"""Jobs that call `client()` too early."""

from millhand import Workers
from millhand.contrib.django import client

client()
workers = Workers()
