"""
Ceph's object gateway on one monitor and one in-memory store: the reference for order and versions.

It starts in two seconds, needs no root and no systemd, and listens on loopback only. All four programs run in the
foreground as children of this process. Only SIGKILL stops the store.

Source: Ceph documentation, "Manual Deployment", "Monitor Config Reference", "Ceph Object Gateway Config Reference".
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from servers import CREDENTIALS, START_SECONDS, answering, directory, process

from free_ports import free_ports
from required import missing

PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool")
PACKAGES = "radosgw ceph-mon ceph-osd ceph-common"
CONF = ("-c", "ceph.conf")
CLASSES = ("/usr/lib", "/usr/lib64")
CONFIG = """
[global]
fsid = {fsid}
mon host = [{address}]
auth allow insecure global id reclaim = false
keyring = {here}/keyring
run dir = {here}
log file = {here}/$name.log
admin socket = {here}/$name.asok
public addr = 127.0.0.1
cluster addr = 127.0.0.1
mon data = {here}/mon
osd data = {here}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
memstore page size = 4096
osd class dir = {classes}
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon max pg per osd = 1000
paxos propose interval = 0.1

[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dynamic resharding = false
rgw override bucket index max shards = 4
rgw enable ops log = false
debug rgw = 0
"""


@contextlib.contextmanager
def rgw() -> Iterator[str]:
    """Run a gateway with one user and the credentials of the tests, and yield its endpoint."""
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        missing("rgw", f"{', '.join(lacking)} not installed; run: apt-get install {PACKAGES}")
    port, mon_port, mon_port_old = free_ports(3)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    address = f"v2:127.0.0.1:{mon_port},v1:127.0.0.1:{mon_port_old}"
    with directory("ceph") as here, contextlib.ExitStack() as running:
        config = CONFIG.format(address=address, classes=_classes(), fsid=fsid, here=here, port=port)
        (here / "ceph.conf").write_text(config)
        (here / "mon").mkdir()
        (here / "osd").mkdir()
        _make_keys(here)
        _run(here, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[{address}]", "monmap")
        _run(here, "ceph-mon", *CONF, "--mkfs", "-i", "a", "--keyring", "keyring", "--monmap", "monmap")
        running.enter_context(process("ceph-mon", ["ceph-mon", *CONF, "-f", "-i", "a"], here, is_killed=True))
        _run(here, "ceph", *CONF, "osd", "new", osd)
        _run(here, "ceph-osd", *CONF, "-i", "0", "--mkfs", "--osd-uuid", osd)
        running.enter_context(process("ceph-osd", ["ceph-osd", *CONF, "-f", "-i", "0"], here, is_killed=True))
        gateway = ["radosgw", *CONF, "-f", "-n", "client.rgw.a"]
        running.enter_context(process("radosgw", gateway, here, is_killed=True))
        endpoint = answering("radosgw", port, here)
        keys = (
            f"--access-key={CREDENTIALS['AWS_ACCESS_KEY_ID']}",
            f"--secret-key={CREDENTIALS['AWS_SECRET_ACCESS_KEY']}",
        )
        _run(here, "radosgw-admin", *CONF, "user", "create", "--uid=tests", "--display-name=tests", *keys)
        yield endpoint


def _make_keys(here: Path) -> None:
    tool = ("ceph-authtool", "keyring", "--gen-key")
    _run(
        here,
        "ceph-authtool",
        "--create-keyring",
        "keyring",
        "--gen-key",
        "-n",
        "mon.",
        "--cap",
        "mon",
        "allow *",
    )
    osd = ("--cap", "osd", "allow *")
    _run(here, *tool, "-n", "client.admin", "--cap", "mon", "allow *", *osd, "--cap", "mgr", "allow *")
    _run(here, *tool, "-n", "client.rgw.a", "--cap", "mon", "allow *", *osd)
    _run(here, *tool, "-n", "osd.0", "--cap", "mon", "allow profile osd", *osd)


def _classes() -> Path:
    """Return the directory of the object classes, which is named for the machine."""
    for root in CLASSES:
        for found in sorted(Path(root).glob("**/rados-classes")):
            return found
    raise AssertionError(f"ceph-osd must bring rados-classes below {' or '.join(CLASSES)}, got none")


def _run(here: Path, *command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, check=False, cwd=here, text=True, timeout=START_SECONDS
    )
    assert done.returncode == 0, f"{command} must succeed, got {done.returncode}: {done.stderr[-2_000:]}"
