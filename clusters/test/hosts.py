"""Hosts on one machine: each is a set of namespaces with an sshd, a network address, and its own disks.

A host shares this machine's kernel and programs. Its processes, its network, its name, and its files under /root, /tmp,
/run and /dev/shm are its own. This repository is not there: files for a host must be copied.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path("/root")
BRIDGE = "hosts0"
GATEWAY = "10.77.0.254"
SSH_OPTIONS = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
BOOT_TIMEOUT_S = 60.0
COVERED = [str(HOME), "/tmp", "/var/tmp", "/run", "/dev/shm", str(ROOT)]

# In the order of the steps: keep what a host may see of the folders that are covered next; cover them; give back what
# was kept, read-only, and what all hosts share; wait for the network; be a machine with an ssh key, and the packages
# that this one needs.
BOOT = """
set -e
mount --make-rprivate /
hostname {name}
mount -t tmpfs -o mode=755 none /mnt
for path in {kept} {shared}; do mkdir -p /mnt$path; mount --bind $path /mnt$path; done
for path in {covered}; do mkdir -p $path; mount -t tmpfs -o mode=1777 none $path; done
chmod 755 {home} /run
for path in {kept}; do mkdir -p $path; mount --bind -o ro /mnt$path $path; done
mkdir -p {shared}; mount --bind /mnt{shared} {shared}
until ip -o address show dev eth0 2>/dev/null | grep -q {address}; do sleep 0.1; done
mkdir -p -m 700 {home}/.ssh /run/sshd
echo {public_key} > {home}/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key
touch {home}/.bashrc
{python} -m venv --without-pip {home}/promptfleet/.venv
for path in {packages} {home}/promptfleet/platform; do echo $path; done \
  > "$(echo {home}/promptfleet/.venv/lib/python3.*/site-packages)/host.pth"
printf '#!%s\\nfrom ray.scripts.scripts import main; main()\\n' {home}/promptfleet/.venv/bin/python \
  > {home}/promptfleet/.venv/bin/ray
chmod +x {home}/promptfleet/.venv/bin/ray
touch {home}/promptfleet/.venv/.promptfleet-ready
exec {sshd} -D -e -f /dev/null -h /run/sshd/key -o ListenAddress={address} -o UsePAM=no -o StrictModes=no \
  -o PasswordAuthentication=no -o PermitRootLogin=prohibit-password -o PidFile=none
"""


@dataclass(frozen=True)
class Host:
    """Running host: killing ``process`` ends all of its processes at once, like pulling its plug."""

    name: str
    address: str
    key: Path
    process: subprocess.Popen

    def ssh(self, command: str, *, timeout_s: float = 60.0) -> str:
        """Return the output of ``command``. Raises CalledProcessError if it fails there or the host is silent."""
        ssh = ["ssh", "-i", str(self.key), "-o", "ConnectTimeout=5", *SSH_OPTIONS, f"root@{self.address}", command]
        return subprocess.run(ssh, check=True, capture_output=True, text=True, timeout=timeout_s).stdout

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def namespaces(self) -> list[str]:
        """Names of the host's own namespaces: network, processes, mounts."""
        return [os.readlink(f"/proc/{self.process.pid}/ns/{kind}") for kind in ("net", "pid_for_children", "mnt")]

    def commands(self) -> list[str]:
        """Return command lines of the host's processes, without those of its sshd."""
        found, mine = [], os.readlink(f"/proc/{self.process.pid}/ns/pid_for_children")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(process / "ns/pid") == mine:
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
            except OSError:
                continue  # it has ended meanwhile
        return [command for command in found if command and not command.startswith(("sshd", "/usr/sbin/sshd"))]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def make_key(folder: Path) -> Path:
    """Make a new ssh key pair in ``folder``; return the private one."""
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key


def make_network() -> None:
    """Make a bridge that hosts are plugged into; this machine has ``GATEWAY`` there."""
    for command in (
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"address add {GATEWAY}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ):
        _ip(command)


def start_host(name: str, address: str, key: Path, shared: Path, log: Path) -> Host:
    """Boot a host that has the folder ``shared`` and wait until it answers to ssh.

    Raises RuntimeError with the end of its log if it does not.
    """
    boot = BOOT.format(
        name=name,
        address=address,
        home=HOME,
        public_key=shlex.quote(key.with_suffix(".pub").read_text().strip()),
        covered=" ".join(COVERED),
        shared=shlex.quote(str(shared)),
        kept=" ".join(map(shlex.quote, _kept())),
        packages=" ".join(map(shlex.quote, _packages())),
        python=shlex.quote(os.path.realpath(sys.executable)),
        sshd=_sshd(),
    )
    namespaces = ["--net", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--mount-proc"]
    with log.open("w") as output:
        process = subprocess.Popen(["unshare", *namespaces, "bash", "-c", boot], stdout=output, stderr=output)
    host = Host(name, address, key, process)
    _plug_in(host)
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while True:
        try:
            host.ssh("true")
        except subprocess.CalledProcessError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"host {name} did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.3)
        else:
            return host


def _plug_in(host: Host) -> None:
    """Connect the host to the bridge. It needs a default route: Ray finds its own address by one."""
    pid, deadline = host.process.pid, time.monotonic() + BOOT_TIMEOUT_S
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"host {host.name} got no network namespace")
        time.sleep(0.05)
    cable = f"to-{host.name}"
    _ip(f"link add {cable} type veth peer name eth0 netns {pid}")
    _ip(f"link set {cable} master {BRIDGE} up")
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    _ip("link set lo up", inside)
    _ip("link set eth0 up", inside)
    _ip(f"address add {host.address}/24 dev eth0", inside)
    _ip(f"route add default via {GATEWAY}", inside)


def _ip(arguments: str, inside: list[str] | None = None) -> None:
    subprocess.run([*(inside or []), "ip", *arguments.split()], check=True)


def _packages() -> list[str]:
    """Return folders of installed packages that this Python sees, other than its own."""
    return [path for path in sys.path if path.endswith("site-packages") and not path.startswith(sys.base_prefix)]


def _kept() -> list[str]:
    return [os.path.realpath(sys.base_prefix), *_packages()]


def _sshd() -> str:
    return next(path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(path))
