# SPDX-License-Identifier: GPL-2.0-only
"""SSH into a guest: a second session while the console is busy, and file transfer.

dropbear serves in the guest, paramiko connects to it, over a virtio-mmio network that changes
to PCI or to the IOMMU cannot break. Each guest gets new keys. The guest prints its host key
over the command channel, and the connection checks it.
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

_LIMIT = 30.0  # seconds for a guest to accept a connection

_TRIES = 20  # ports to try

_PUBLIC = re.compile(r"^ssh-ed25519 (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """How a command ended and what it printed."""

    status: int
    out: bytes
    err: bytes


class Remote:
    """An SSH connection to a guest: its ``port`` of 127.0.0.1, the file of the private ``key``,
    for use with ssh itself, and the guest's ``host_key``."""

    def __init__(
        self, client: paramiko.SSHClient, port: int, key: Path, host_key: paramiko.PKey
    ) -> None:
        self._client = client
        self.port = port
        self.key = key
        self.host_key = host_key

    def run(self, command: str, *, stdin: bytes = b"", limit: float = _LIMIT) -> RemoteResult:
        """Run a command in a new shell. Raises GuestLost if the connection breaks or is silent
        for ``limit`` seconds."""
        try:
            to_stdin, out, err = self._client.exec_command(command, timeout=limit)
            # All three at once: a stream that is not read stalls after a window of 2 MB.
            with to_stdin, out, err, ThreadPoolExecutor(2) as pool:
                writing = pool.submit(_write_stdin, to_stdin, stdin)
                reading = pool.submit(err.read)
                printed, errors = out.read(), reading.result()
                writing.result()
                return RemoteResult(out.channel.recv_exit_status(), printed, errors)
        except (paramiko.SSHException, OSError) as error:
            raise GuestLost(f"the SSH connection broke during {command!r}: {error}") from None

    def put(self, local: Path, remote: str) -> None:
        """Copy a file into the guest. Raises HostError if it cannot be written."""
        result = self.run(f"cat > {shlex.quote(remote)}", stdin=local.read_bytes())
        if result.status != 0:
            raise HostError(f"cannot write {remote}: {result.err.decode(errors='replace').strip()}")

    def get(self, remote: str, local: Path) -> None:
        """Copy a file out of the guest. Raises HostError if it cannot be read."""
        result = self.run(f"cat {shlex.quote(remote)}")
        if result.status != 0:
            raise HostError(f"cannot read {remote}: {result.err.decode(errors='replace').strip()}")
        local.write_bytes(result.out)


@contextlib.contextmanager
def connected(guest: Guest) -> Iterator[Remote]:
    """A connection to the guest, closed with the context. Raises UsageError for a machine
    without ``ssh``, HostError or GuestLost if the connection fails."""
    if not guest.machine.ssh:
        raise UsageError(f"{guest.machine.name} has no network for SSH", "set ssh=True")
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
            raise GuestLost(f"the guest accepts no SSH connection: {error}") from None
        yield Remote(client, port, file, host_key)


def _start(guest: Guest, public: str) -> paramiko.PKey:
    """Start dropbear, which accepts the ``public`` key; its host key."""
    seed = secrets.token_hex(32)
    reply = guest.run(f"sh /harness/sshd {qemu.SSH_ADDRESS} {shlex.quote(public)} {seed}")
    if reply.status != 0:
        raise HostError(f"dropbear does not start: {reply.err.strip()}")
    match = _PUBLIC.search(reply.out)
    if not match:
        raise HostError(f"dropbear printed no host key: {reply.out!r}")
    return paramiko.Ed25519Key(data=base64.b64decode(match[1]))


def _write_stdin(to_stdin: paramiko.ChannelFile, stdin: bytes) -> None:
    """Write a program's standard input. The program may exit without reading it; one that
    stalls raises TimeoutError."""
    try:
        to_stdin.write(stdin)
        to_stdin.channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError:
        return


def _free_ports() -> Iterator[int]:
    """Free ports of the loopback interface, which another process may bind at any time."""
    for _ in range(_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        yield port


def _end_forward(guest: Guest, port: int) -> None:
    """Remove the forwarding. QEMU removes it itself when the guest ends."""
    with contextlib.suppress(GuestError):
        guest.hmp(f"hostfwd_remove {qemu.SSH_NETWORK} tcp:127.0.0.1:{port}")


def forward(guest: Guest, ports: Iterable[int]) -> int:
    """Forward the first free one of the host's ``ports`` to the guest's dropbear; that port.
    Raises HostError if all are in use."""
    error = "no port is free"
    for port in ports:
        rule = f"tcp:127.0.0.1:{port}-{qemu.SSH_ADDRESS}:22"
        error = guest.hmp(f"hostfwd_add {qemu.SSH_NETWORK} {rule}").strip()
        if not error:
            return port
    raise HostError(f"QEMU cannot forward a port of 127.0.0.1: {error}")
