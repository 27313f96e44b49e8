"""
A way to a server that fails as networks do: cut, stopped up, forgotten, narrow or slow, in both directions or one.

    async with proxied(postgres_url) as proxy:
        client = Client(proxy.url, …)
        proxy.cut()        # connections are reset, and new ones too
        proxy.refuse()     # new ones alone
        proxy.stop_up()    # bytes are held without an error, and arrive when it is restored
        proxy.slow(0.05)   # each piece takes so long
        proxy.narrow(8000) # so many bytes a second go through each connection
        proxy.forget()     # open connections lose all bytes without an error; new connections work
    proxy.hold()       # the same, but sent bytes arrive when it is restored, even from closed connections
        proxy.restore()

The server may be behind a TCP port or a Unix socket; the way to it is a TCP port of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

PIECE = 16 * 1024
POSTGRES_PORT = 5432


class Direction(enum.Enum):
    """Which way bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


BOTH = (Direction.TO_SERVER, Direction.TO_CLIENT)


class Proxy:
    """
    What `proxied` makes. `url` is the server's, by way of this. `num_connected` counts connections of all times.

    Concurrency: faults may be made and restored at any time; each takes effect on what is connected and on what will be.
    """

    def __init__(self, server_url: str) -> None:
        self.num_connected = 0
        self.url = server_url
        self._connect = _connector(server_url)
        self._flows = {direction: _Flow() for direction in Direction}
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._held: dict[asyncio.StreamWriter, asyncio.Event] = {}
        self._is_cut = False
        self._num_broken_off = 0
        self._news = asyncio.Event()
        self._server_url = server_url
        self._to_server: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Reset what is connected, and whatever connects from now on."""
        self.refuse()
        self.break_off()

    def refuse(self) -> None:
        """Reset whatever connects from now on; what is connected goes on."""
        self._is_cut = True

    def break_off(self) -> None:
        """Reset what is connected now, or has been accepted."""
        self._num_broken_off += 1
        for writer in self._writers:
            writer.transport.abort()

    def stop_up(self, directions: Iterable[Direction] = BOTH) -> None:
        """Hold back every byte without an error, like a network that loses all packets."""
        for direction in directions:
            self._flows[direction].change(is_open=False)

    def slow(self, delay_seconds: float, directions: Iterable[Direction] = BOTH) -> None:
        """Have each piece, of 16 KiB at most, take so long; the next one goes when the one before has arrived."""
        for direction in directions:
            self._flows[direction].change(delay_seconds=delay_seconds)

    def narrow(self, bytes_per_second: float, directions: Iterable[Direction] = BOTH) -> None:
        """Let so many bytes through a second, in each connection."""
        for direction in directions:
            self._flows[direction].change(byte_seconds=1 / bytes_per_second)

    def forget(self) -> None:
        """
        Lose all that is sent on what is connected now, for good: as a router does that has forgotten its connections.

        The server learns of it by the next `restore`, as it would by its keepalives; the client's side never does.
        """
        self._forgotten |= self._writers

    def hold(self) -> None:
        """
        Hold back what is sent on what is connected now, although its sender hangs up.

        So does a kernel that sends a lost packet again, more and more seldom: new connections are carried long before.
        """
        self._held |= {writer: asyncio.Event() for writer in self._writers}

    def restore(self) -> None:
        """End all faults. What was held back goes on; what was cut or forgotten must connect again."""
        self._is_cut = False
        for restored in self._held.values():
            restored.set()
        self._held.clear()
        for flow in self._flows.values():
            flow.change()
        for writer in self._forgotten & self._to_server:
            writer.transport.abort()

    async def wait_connected(self, num: int) -> None:
        """Return when `num` connections were made in all, those that were reset at once included."""
        while self.num_connected < num:
            await self._news.wait()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it."""
        self.num_connected += 1
        self._news.set()
        self._news = asyncio.Event()
        if self._is_cut:
            writer.transport.abort()
            return
        num_broken_off = self._num_broken_off
        try:
            server_reader, server_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        both = {writer, server_writer}
        if self._num_broken_off > num_broken_off:  # since this was accepted
            for one in both:
                one.transport.abort()
            return
        self._writers |= both
        self._to_server.add(server_writer)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, server_writer, Direction.TO_SERVER))
                pumps.create_task(self._pump(server_reader, writer, Direction.TO_CLIENT))
        finally:
            self._writers -= both
            self._forgotten -= both
            self._to_server.discard(server_writer)
            for one in both:
                one.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Carry bytes until one end is gone, which takes the other with it, unless this was forgotten."""
        flow = self._flows[direction]
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(PIECE):
                await flow.delay(len(piece))
                if writer in self._held:
                    await self._held[writer].wait()
                if writer not in self._forgotten:
                    writer.write(piece)
                    await writer.drain()
        if writer not in self._forgotten:
            writer.close()

    def listen_at(self, port: int) -> None:
        """Say where this is to be found."""
        parts = urlsplit(self._server_url)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        query = urlencode(
            [pair for pair in parse_qsl(parts.query) if pair[0] not in ("host", "port")], safe="/"
        )
        self.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}", query=query))


@contextlib.asynccontextmanager
async def proxied(server_url: str) -> AsyncIterator[Proxy]:
    """Open a way to the PostgreSQL of a URL, without faults at first, and cut it in the end."""
    proxy = Proxy(server_url)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=PIECE)
    proxy.listen_at(server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()
        proxy.restore()
        proxy.cut()
        await server.wait_closed()


class _Flow:
    """How bytes go in one direction."""

    def __init__(self) -> None:
        self._byte_seconds = 0.0
        self._changed = asyncio.Event()
        self._delay_seconds = 0.0
        self._is_open = True

    def change(self, *, is_open: bool = True, delay_seconds: float = 0.0, byte_seconds: float = 0.0) -> None:
        self._byte_seconds = byte_seconds
        self._delay_seconds = delay_seconds
        self._is_open = is_open
        self._changed.set()
        self._changed = asyncio.Event()

    async def delay(self, num_bytes: int) -> None:
        """Return when a piece may go on. A change of the fault is heeded by what waits already."""
        while not self._is_open:
            await self._changed.wait()
        if seconds := self._delay_seconds + self._byte_seconds * num_bytes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()


def _connector(url: str) -> Callable[[], asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    port = int(query.get("port", parts.port or POSTGRES_PORT))
    host = query.get("host", parts.hostname or "127.0.0.1")
    if host.startswith("/"):
        return lambda: asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}", limit=PIECE)
    return lambda: asyncio.open_connection(host, port, limit=PIECE)
