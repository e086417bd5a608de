"""Machines of a network, as network namespaces of this machine: each has an address and processes of its own.

They share the file system. Making them takes root and the command `ip`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass

from waiting import wait_for

ABLE = (
    shutil.which("ip") is not None
    and shutil.which("unshare") is not None
    and subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode
    == 0
)
NETWORK = "10.78.0"
PORT = 6379
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # its token would have to reach all machines
}


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Machine:
    """A namespace with an address."""

    name: str
    address: str

    def start(self, command, **options):
        """Start a process."""
        whole = ["ip", "netns", "exec", self.name, *map(str, command)]
        return subprocess.Popen(whole, env=os.environ | RAY, **options)

    @property
    def processes(self):
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True
        )
        return list(map(int, listed.stdout.split()))

    def stop(self):
        """Kill all processes at once, as without power."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_for(lambda: not self.processes)


@contextlib.contextmanager
def machines(count):
    """Make a number of machines that reach each other."""
    bridge = f"nv{os.getpid() % 100000}"
    made = [Machine(f"{bridge}-{n}", f"{NETWORK}.{n + 1}") for n in range(count)]
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("link", "set", bridge, "up")
        for number, machine in enumerate(made):
            _ip("netns", "add", machine.name)
            stack.callback(_ip, "netns", "del", machine.name)
            outside = f"{bridge}v{number}"
            _ip("link", "add", outside, "type", "veth", "peer", "eth0", "netns", machine.name)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", machine.name, "link", "set", device, "up")
            stack.callback(machine.stop)
        yield made


def start_ray(head, *workers, cores=1):
    """Start Ray's nodes; the head has no cores for fits. Returns the address of the cluster."""
    address = f"{head.address}:{PORT}"
    for machine in (head, *workers):
        first = ("--head", f"--port={PORT}", "--include-dashboard=false")
        join = first if machine is head else (f"--address={address}",)
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *join),
            f"--node-ip-address={machine.address}",
            f"--num-cpus={0 if machine is head else cores}",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ]
        started = machine.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        told, _ = started.communicate(timeout=120)
        assert started.returncode == 0, told.decode()
    return address
