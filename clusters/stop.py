"""Stop a cluster of machines you have, and undo what it changed: python clusters/stop.py clusters/local.yaml

Ray's own `ray down` ends the head alone. It leaves the workers of this provider up, and in each machine's ~/.bashrc the
line that the file's setup_commands added.
"""

import subprocess
import sys
from pathlib import Path

import yaml

from promptfleet.command_line import ArgumentParser, run
from promptfleet.errors import ConfigError, ResourceError

LINE = r"promptfleet/\.venv/bin:\$PATH RAY_AUTH_MODE=token"  # in ~/.bashrc
SSH_OPTIONS = [  # as Ray's launcher has them
    *("-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"),
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
]
STOP_AND_UNDO = rf"""
ray=~/promptfleet/.venv/bin/ray
test ! -x $ray || $ray stop; status=$?
if [ -e ~/.bashrc ]; then
  sed -i --follow-symlinks '\#{LINE}#d' ~/.bashrc
  [ -s ~/.bashrc ] || rm ~/.bashrc
fi
exit $status
"""


def main() -> None:
    parser = ArgumentParser(
        prog="stop.py", description="Stop a cluster of machines you have, and undo what it changed."
    )
    parser.add_argument("cluster", help="the file that `ray up` was given")
    arguments = parser.parse_args()
    hosts, ssh = _hosts(arguments.cluster)
    subprocess.run([str(Path(sys.executable).with_name("ray")), "down", "--yes", arguments.cluster], check=False)
    missed = [host for host in hosts if subprocess.run([*ssh, host, STOP_AND_UNDO], check=False).returncode != 0]
    if missed:
        raise ResourceError(f"{arguments.cluster}: not stopped on {', '.join(missed)}: run this again when they answer")
    print(f"stopped on {', '.join(hosts)}")


def _hosts(path: str) -> tuple[list[str], list[str]]:
    """Return the machines of a cluster's file, and the ssh command to which one is added. Raises ConfigError."""
    try:
        cluster = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        provider, auth = cluster["provider"], cluster["auth"]
        hosts = [provider["head_ip"], *provider["worker_ips"]]
        key = Path(auth["ssh_private_key"]).expanduser()
        return hosts, ["ssh", *SSH_OPTIONS, "-i", str(key), "-l", auth["ssh_user"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no cluster of provider local ({error!r})") from None


if __name__ == "__main__":
    run(main)
