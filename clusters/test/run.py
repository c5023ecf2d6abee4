"""Two hosts on this machine, a Ray cluster on them, sweeps on the cluster: python clusters/test/run.py

Everything runs in namespaces that end with this process, however it ends, so no other Ray on this machine is touched
and nothing is left behind. Needs root, sshd, rsync and iproute2; where something is missing it says so and is skipped.
Logs and the seconds of each step go to results/cluster-test.
"""

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scenario import Failed, Scenario, ray_ssh_folder

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "results/cluster-test"
NAMESPACES = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
PACKAGES = {  # Debian's, of the programs that are needed
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
PR_SET_PDEATHSIG = 1
KINDS = ("net", "pid", "mnt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return run_inside(Path(options.inside))
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    reason = why_not()
    if reason:
        print(f"cluster-test SKIPPED: {reason}")
        return 0
    return run_outside()


def why_not() -> str | None:
    """Return the reason why hosts cannot be made here; None if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "hosts are made of Linux namespaces, for which this must run as root"
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if missing:
        return f"programs are missing; on Debian and Ubuntu: apt-get install {' '.join(missing)}"
    done = subprocess.run(
        ["unshare", *NAMESPACES, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
    )
    if done.returncode:
        return f"this machine (a container?) does not allow namespaces: {done.stderr.strip()}"
    return None


def run_outside() -> int:
    """Run this file again in new namespaces, and check afterwards that none of them is left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    mounts, links = count_mounts(), os.listdir("/sys/class/net")
    folder = Path(tempfile.mkdtemp(prefix="pf-"))  # short: Ray's sockets are in it, and their names may not be long
    command = ["unshare", *NAMESPACES, sys.executable, __file__, "--inside", str(folder)]
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent)
    try:
        status = child.wait()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
        print("cluster-test: interrupted", file=sys.stderr)
    finally:
        child.kill()
        child.wait()
        namespaces = set((folder / "namespaces").read_text().split()) if (folder / "namespaces").exists() else set()
        LOGS.mkdir(parents=True, exist_ok=True)
        for log in [*folder.glob("*.log"), *folder.glob("*.txt")]:
            shutil.copy(log, LOGS)
        shutil.rmtree(folder)
        shutil.rmtree(ray_ssh_folder(folder), ignore_errors=True)
    left = [*wait_until_gone(namespaces)]
    left += [f"mounts: {count_mounts()} instead of {mounts}"] if count_mounts() != mounts else []
    left += [f"network device {link}" for link in os.listdir("/sys/class/net") if link not in links]
    if left:
        print(f"cluster-test: left behind: {left}", file=sys.stderr)
        return 1
    print("nothing left behind: no process, namespace, network device or mount", flush=True)
    return status


def run_inside(folder: Path) -> int:
    scenario = Scenario(folder)
    try:
        scenario.run()
    except (Failed, subprocess.SubprocessError, RuntimeError) as error:
        print(f"cluster-test FAILED: {error}\nlogs: {LOGS}", file=sys.stderr, flush=True)
        return 1
    finally:
        scenario.keep_traces()
    print("cluster-test passed", flush=True)
    return 0


def wait_until_gone(namespaces: set[str]) -> list[str]:
    """Return processes in one of ``namespaces`` after the moment that the kernel takes to end them."""
    deadline = time.monotonic() + 10
    while (left := members(namespaces)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def members(namespaces: set[str]) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if namespaces & {os.readlink(process / "ns" / kind) for kind in KINDS}:
                found.append(f"process {process.name} {(process / 'comm').read_text().strip()}")
        except OSError:
            continue  # it has ended meanwhile
    return found


def count_mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
