# SPDX-License-Identifier: GPL-2.0-only
"""SSH into a guest: a second session while the console is busy, and files both ways.

dropbear in the guest, paramiko here, over a virtio-mmio network that no change to PCI
or to the IOMMU can cut off. Each guest gets keys of its own, and its host key, told over
the command channel, is checked.
"""

import base64
import contextlib
import re
import secrets
import shlex
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import paramiko

from harness.errors import GuestError, GuestLost, HostError, UsageError
from harness.guest.guest import Guest
from harness.machine import qemu

_LIMIT = 30.0  # seconds for a guest to take a connection

_TRIES = 20  # ports

_PUBLIC = re.compile(r"^ssh-ed25519 (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended and what it printed."""

    status: int
    out: bytes
    err: bytes


class Remote:
    """An SSH connection to a guest; ``port`` is that of 127.0.0.1, ``key`` a file with
    the private key, for people who want ssh itself, ``host_key`` the guest's."""

    def __init__(
        self, client: paramiko.SSHClient, port: int, key: Path, host_key: paramiko.PKey
    ) -> None:
        self._client = client
        self.port = port
        self.key = key
        self.host_key = host_key

    def run(self, command: str, *, stdin: bytes = b"", limit: float = _LIMIT) -> Done:
        """Runs a command in a shell of its own. Raises GuestLost when the connection
        breaks or nothing comes for ``limit`` seconds."""
        try:
            given, out, err = self._client.exec_command(command, timeout=limit)
            # All three at once: what nobody reads stops after a window of 2 MB.
            with given, out, err, ThreadPoolExecutor(2) as pool:
                writing = pool.submit(_give, given, stdin)
                complaining = pool.submit(err.read)
                printed, complained = out.read(), complaining.result()
                writing.result()
                return Done(out.channel.recv_exit_status(), printed, complained)
        except (paramiko.SSHException, OSError) as error:
            raise GuestLost(f"the SSH connection broke during {command!r}: {error}") from None

    def put(self, local: Path, remote: str) -> None:
        """Copies a file into the guest. Raises HostError when it cannot be written."""
        done = self.run(f"cat > {shlex.quote(remote)}", stdin=local.read_bytes())
        if done.status != 0:
            raise HostError(f"cannot write {remote}: {done.err.decode(errors='replace').strip()}")

    def get(self, remote: str, local: Path) -> None:
        """Copies a file out of the guest. Raises HostError when it cannot be read."""
        done = self.run(f"cat {shlex.quote(remote)}")
        if done.status != 0:
            raise HostError(f"cannot read {remote}: {done.err.decode(errors='replace').strip()}")
        local.write_bytes(done.out)


@contextlib.contextmanager
def connected(guest: Guest) -> Iterator[Remote]:
    """A connection to the guest, closed on the way out. Raises UsageError for a machine
    without ``ssh``, HostError and GuestLost when there is none to be had."""
    if not guest.machine.ssh:
        raise UsageError(f"{guest.machine.name} has no network for SSH", "make it with ssh=True")
    key = paramiko.ECDSAKey.generate()
    file = guest.directory / "ssh-key"
    key.write_private_key_file(str(file))
    host_key = _start(guest, f"{key.get_name()} {key.get_base64()}")
    port = forward(guest, _free_ports())
    with contextlib.ExitStack() as stack:
        stack.callback(_end_forward, guest, port)
        client = stack.enter_context(paramiko.SSHClient())
        name = f"[127.0.0.1]:{port}"
        client.get_host_keys().add(name, host_key.get_name(), host_key)
        try:
            client.connect(
                "127.0.0.1",
                port,
                "root",
                pkey=key,
                timeout=_LIMIT,
                banner_timeout=_LIMIT,
                auth_timeout=_LIMIT,
                allow_agent=False,
                look_for_keys=False,
            )
        except (paramiko.SSHException, OSError) as error:
            raise GuestLost(f"the guest takes no SSH connection: {error}") from None
        yield Remote(client, port, file, host_key)


def _start(guest: Guest, public: str) -> paramiko.PKey:
    """dropbear, which lets ``public`` in; returns its own public key."""
    seed = secrets.token_hex(32)
    reply = guest.run(f"sh /harness/sshd {qemu.SSH_ADDRESS} {shlex.quote(public)} {seed}")
    if reply.status != 0:
        raise HostError(f"dropbear does not start: {reply.err.strip()}")
    told = reply.out
    match = _PUBLIC.search(told)
    if not match:
        raise HostError(f"dropbear has no host key: {told!r}")
    return paramiko.Ed25519Key(data=base64.b64decode(match[1]))


def _give(given: paramiko.ChannelFile, stdin: bytes) -> None:
    """A program need not read what it is given, and may end before; one that stalls is
    an error."""
    try:
        given.write(stdin)
        given.channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError:
        return


def _free_ports() -> Iterator[int]:
    """Ports of the loopback that nobody has; another process may take one at once."""
    for _ in range(_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        yield port


def _end_forward(guest: Guest, port: int) -> None:
    """Nothing where the guest has died: its port died with it."""
    with contextlib.suppress(GuestError):
        guest.hmp(f"hostfwd_remove {qemu.SSH_NETWORK} tcp:127.0.0.1:{port}")


def forward(guest: Guest, ports: Iterable[int]) -> int:
    """The first of the ``ports`` of this host's loopback that can be made to lead to the
    guest's dropbear. Raises HostError when all are taken."""
    said = "there is none"
    for port in ports:
        rule = f"tcp:127.0.0.1:{port}-{qemu.SSH_ADDRESS}:22"
        said = guest.hmp(f"hostfwd_add {qemu.SSH_NETWORK} {rule}").strip()
        if not said:
            return port
    raise HostError(f"QEMU can forward no port of 127.0.0.1: {said}")
