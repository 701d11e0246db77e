# SPDX-License-Identifier: GPL-2.0-only
"""Connect to a guest by SSH, for a second session while the console is busy, and for file
transfer.

dropbear runs in the guest, and paramiko connects to it. The network device is on virtio-mmio,
which changes to PCI or to the IOMMU cannot break. Each guest gets new keys. The guest prints its
host key on the command channel, and the connection verifies it.
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

_TRIES = 20  # number of ports to try

_PUBLIC = re.compile(r"^ssh-ed25519 (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """The exit status and the output of a command."""

    status: int
    out: bytes
    err: bytes


class Remote:
    """An SSH connection to a guest.

    ``port`` is the port on 127.0.0.1 that is forwarded to the guest. ``key`` is the file of the
    private key, for the program ssh. ``host_key`` is the public key of the guest's server."""

    def __init__(
        self, client: paramiko.SSHClient, port: int, key: Path, host_key: paramiko.PKey
    ) -> None:
        self._client = client
        self.port = port
        self.key = key
        self.host_key = host_key

    def run(self, command: str, *, stdin: bytes = b"", limit: float = _LIMIT) -> RemoteResult:
        """Run a command in a new shell, and return its result. Raises GuestLost if the connection
        breaks, or is silent for ``limit`` seconds."""
        try:
            to_stdin, out, err = self._client.exec_command(command, timeout=limit)
            # Serve all three streams at once: a stream that is not read stalls after a window
            # of 2 MB.
            with to_stdin, out, err, ThreadPoolExecutor(2) as pool:
                writing = pool.submit(_write_stdin, to_stdin, stdin)
                reading = pool.submit(err.read)
                printed, errors = out.read(), reading.result()
                writing.result()
                return RemoteResult(out.channel.recv_exit_status(), printed, errors)
        except (paramiko.SSHException, OSError) as error:
            raise GuestLost(f"the SSH connection broke during {command!r}: {error}") from None

    def put(self, local: Path, remote: str) -> None:
        """Copy a file into the guest. Raises HostError if the guest cannot write it."""
        result = self.run(f"cat > {shlex.quote(remote)}", stdin=local.read_bytes())
        if result.status != 0:
            raise HostError(f"cannot write {remote} in the guest: {_text(result.err)}")

    def get(self, remote: str, local: Path) -> None:
        """Copy a file out of the guest. Raises HostError if the guest cannot read it."""
        result = self.run(f"cat {shlex.quote(remote)}")
        if result.status != 0:
            raise HostError(f"cannot read {remote} in the guest: {_text(result.err)}")
        local.write_bytes(result.out)


def _text(printed: bytes) -> str:
    return printed.decode(errors="replace").strip()


@contextlib.contextmanager
def connected(guest: Guest) -> Iterator[Remote]:
    """Connect to the guest, and close the connection when the block ends. Raises UsageError for
    a machine without ``ssh``, HostError or GuestLost if the connection fails."""
    if not guest.machine.ssh:
        raise UsageError(
            f"{guest.machine.name} has no network device for SSH",
            "start the guest on a Machine with ssh=True",
        )
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
            raise GuestLost(f"cannot connect to the guest by SSH: {error}") from None
        yield Remote(client, port, file, host_key)


def _start(guest: Guest, public: str) -> paramiko.PKey:
    """Start dropbear in the guest, let it accept the ``public`` key, and return its host key.
    Raises HostError if dropbear does not start."""
    seed = secrets.token_hex(32)
    reply = guest.run(f"sh /harness/sshd {qemu.SSH_ADDRESS} {shlex.quote(public)} {seed}")
    if reply.status != 0:
        raise HostError(f"cannot start dropbear in the guest: {reply.err.strip()}")
    match = _PUBLIC.search(reply.out)
    if not match:
        raise HostError(f"dropbear printed no host key: {reply.out!r}")
    return paramiko.Ed25519Key(data=base64.b64decode(match[1]))


def _write_stdin(to_stdin: paramiko.ChannelFile, stdin: bytes) -> None:
    """Write a program's standard input and close it. The program may exit without reading all of
    it. Raises TimeoutError for a program that runs but does not read."""
    try:
        to_stdin.write(stdin)
        to_stdin.channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError:
        return


def _free_ports() -> Iterator[int]:
    """Yield ports of the loopback interface that are free now. Another process may bind them at
    any time."""
    for _ in range(_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        yield port


def _end_forward(guest: Guest, port: int) -> None:
    """Remove the port forwarding. If the guest has ended, QEMU has removed it already."""
    with contextlib.suppress(GuestError):
        guest.hmp(f"hostfwd_remove {qemu.SSH_NETWORK} tcp:127.0.0.1:{port}")


def forward(guest: Guest, ports: Iterable[int]) -> int:
    """Forward the first free port of ``ports`` on the host to dropbear in the guest, and return
    that port. Raises HostError if all ports are in use."""
    error = "all ports are in use"
    for port in ports:
        rule = f"tcp:127.0.0.1:{port}-{qemu.SSH_ADDRESS}:22"
        error = guest.hmp(f"hostfwd_add {qemu.SSH_NETWORK} {rule}").strip()
        if not error:
            return port
    raise HostError(f"cannot forward a port of 127.0.0.1 to the guest: {error}")
