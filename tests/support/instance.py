"""An EC2 instance's first start on a Debian in a chroot: its user data runs as it is, between shims of AWS programs.

Amazon Linux itself cannot be made here. The shims (shims/) are `dnf`, `aws`, `cfn-signal`, `systemctl`, and the
programs of the data volume. Mounts and processes live in namespaces that end with the instance.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

_TREE = Path(__file__).resolve().parents[2] / "build" / "instance-bookworm"
_SHIMS = Path(__file__).with_name("shims")
_SETTINGS = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
_MOUNTS = r"""
set -e
root=$1; shift
mount --make-rprivate / && mount --bind "$root" "$root"
mount -t proc proc "$root/proc" && mount -t tmpfs dev "$root/dev" && mkdir "$root/dev/shm"
mount -t tmpfs shm "$root/dev/shm" && chmod 1777 "$root/dev/shm"
for node in null zero random urandom; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
for place in "$@"; do mkdir -p "$root${place#*=}"; mount --bind "${place%%=*}" "$root${place#*=}"; done
touch "$root/started"
exec sleep infinity
"""

needs_debootstrap = pytest.mark.skipif(
    not shutil.which("debootstrap") or os.geteuid() != 0,
    reason="debootstrap is not installed (apt-get install debootstrap), or not run as root",
)


@dataclass(frozen=True)
class Instance:
    """A running instance. `root` is its file system."""

    root: Path
    pid: int

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command as root on the instance."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "chroot", str(self.root), *command]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        kept = {
            name: value for name, value in os.environ.items() if re.match("PIP_|SSL_|(HTTPS?|NO)_PROXY", name, re.I)
        }
        environment = {**kept, "PATH": path, "LANG": "C.UTF-8"}
        done = subprocess.run(inside, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, (done.stdout + done.stderr + self.log)[-6000:]
        return done

    def start(self, user_data: str) -> subprocess.CompletedProcess[str]:
        """Runs the user data, as cloud-init does when an instance is new."""
        (self.root / "user-data").write_text(user_data, "utf-8")
        return self.run("bash", "/user-data", check=False)

    @property
    def log(self) -> str:
        """What the server printed."""
        file = self.root / "var/log/mlflow.log"
        return file.read_text("utf-8", errors="replace") if file.exists() else ""

    @property
    def signal(self) -> str:
        """The arguments of cfn-signal."""
        return (self.root / "signal").read_text("utf-8").strip()


@contextmanager
def new_instance(folder: Path, volume: Path, environment: Mapping[str, str]) -> Iterator[Instance]:
    """Yields an instance with nothing on it but the system; `volume` is what it mounts as its data.

    `environment` has the address of AWS, for the shims and the server.
    """
    root = folder / "root"
    subprocess.run(["cp", "-a", str(_system()), str(root)], check=True)
    shutil.copytree(_SHIMS, root / "usr/local/sbin", dirs_exist_ok=True)
    for shim in (root / "usr/local/sbin").iterdir():
        shim.chmod(0o755)
    (root / "etc/aws-environment").write_text("".join(f"{name}={environment[name]}\n" for name in environment))
    (root / "var/lib/cloud/data").mkdir(parents=True)
    (root / "var/lib/cloud/data/instance-id").write_text("i-0123456789abcdef0\n")
    for name in ("/etc/resolv.conf", "/etc/hosts"):
        shutil.copy(name, root / name[1:])
    places = [f"{volume}=/var/lib/mlflow", "/etc/ssl/certs=/etc/ssl/certs", *_folders_of_pip(root)]
    unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _MOUNTS, "sh", str(root), *places]
    with subprocess.Popen(unshared) as process:
        try:
            while not (root / "started").exists():
                assert process.poll() is None, "the instance's mounts failed"
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield Instance(root, int(child))
        finally:
            process.kill()
    shutil.rmtree(root)


def _folders_of_pip(root: Path) -> Iterator[str]:
    """Copies pip's settings; yields the folders of packages that they name."""
    named = " ".join(value for name, value in os.environ.items() if name.startswith("PIP_"))
    (root / "root/.config/pip").mkdir(parents=True)
    for name in _SETTINGS:
        settings = Path(name).expanduser()
        if settings.exists():
            named += settings.read_text("utf-8")
            shutil.copy(settings, root / ("etc/pip.conf" if name.startswith("/") else "root/.config/pip/pip.conf"))
    for folder in sorted(set(re.findall(r"(?<!:/)(?<!\w)/[^\s,\"']+", named.replace("file://", " ")))):
        if Path(folder).is_dir():
            place = folder.removesuffix("/simple")  # an index's files are next to it
            yield f"{place}={place}"


def _system() -> Path:
    """Returns the tree of a minimal Debian, kept between runs."""
    _TREE.parent.mkdir(exist_ok=True)
    with FileLock(f"{_TREE}.lock"):
        if not _TREE.exists():
            targets = subprocess.run(
                ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False
            )
            mirrors = [line for line in targets.stdout.split() if line.rstrip("/").endswith("/debian")]
            new = _TREE.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            include = "--include=ca-certificates,curl,python3,python3-venv"
            mirror = mirrors[0] if mirrors else "http://deb.debian.org/debian"
            command = ["debootstrap", "--variant=minbase", include, "bookworm", str(new), mirror]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"debootstrap could not make a system: {done.stdout[-300:]}{done.stderr[-300:]}")
            new.rename(_TREE)
    return _TREE
