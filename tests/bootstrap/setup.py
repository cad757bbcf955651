"""Prepare this clone: `.venv` with the pinned tools, and a Redis server to break.

Runs before anything is installed, hence needs nothing but Python. Installs no service: on
Debian and its kin the server binary comes with `redis-tools`, which starts nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "setup.stamp"
INPUTS = [
    Path(__file__),
    ROOT / "requirements.txt",
    ROOT / "tests/requirements-dev.txt",
    ROOT / "tests/requirements-test.txt",
]
APT_WAIT = ("-o", "DPkg::Lock::Timeout=120")
SERVERS = ("redis-server", "valkey-server")


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL, cwd=ROOT)


def digest() -> str:
    inputs = b"".join(path.read_bytes() for path in INPUTS)
    return hashlib.sha256(inputs + sys.version.encode()).hexdigest()


def inside() -> bool:
    """Whether `.venv` itself runs this; the Makefile prefers it as soon as it works."""
    return Path(sys.prefix).resolve() == VENV


def installer() -> list[str] | None:
    """The command that installs system packages, if this user may run it unasked."""
    if not shutil.which("apt-get"):
        return None
    if os.geteuid() == 0:
        return ["apt-get"]
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], check=False, capture_output=True).returncode == 0:
        return [sudo, "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    return None


def install_package(name: str, otherwise: str) -> None:
    apt = installer()
    if apt is None:
        sys.exit(f"setup: {otherwise}, then run `make setup` again.")
    print(f"setup: installing {name}", flush=True)
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run(*apt, "update", "-qq")
    run(*apt, "install", "-y", "-qq", "--no-install-recommends", *APT_WAIT, name)


def make_venv() -> None:
    """A fresh `.venv`, unless it is the very one that runs this."""
    if inside():
        return
    try:
        import ensurepip  # noqa: F401  (Debian ships Python without it)
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        install_package(f"python{version}-venv", f"install the venv module of Python {version}")
    venv.create(VENV, clear=True, symlinks=True, with_pip=True)


def install_tools() -> None:
    """The tools of `.venv`; uv puts them there in a second, pip is the way without it."""
    python, wanted = BIN / "python", ROOT / "tests/requirements-dev.txt"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pin = next(line for line in wanted.read_text().splitlines() if line.startswith("uv=="))
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")
    try:
        run(*pip, pin)
        run(BIN / "uv", "pip", "install", "--quiet", "--python", python, "-r", wanted)
    except subprocess.CalledProcessError:
        print("setup: uv could not install the tools, trying pip", flush=True)
        run(*pip, "-r", wanted)


def server() -> str | None:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return next(filter(None, (shutil.which(name, path=path) for name in SERVERS)), None)


def install_server() -> None:
    """Link the server into `.venv`: its package would also start it as a service."""
    install_package("redis-tools", "install redis-server or valkey-server")
    binary = shutil.which("redis-check-rdb")  # the server itself, under another name
    if binary is None:
        sys.exit("setup: redis-tools brought no server; install redis-server or valkey-server.")
    link = BIN / "redis-server"
    link.unlink(missing_ok=True)
    link.symlink_to(binary)
    run(link, "--version")


def postgres() -> bool:
    """Whether a PostgreSQL server is there; Debian keeps it off PATH."""
    return bool(shutil.which("postgres") or any(Path("/usr/lib/postgresql").glob("*/bin/postgres")))


def offer_postgres() -> None:
    """For the tests only, and only where it can be had without asking: otherwise they are skipped, and say so.

    The package would make a cluster of its own and start it. Where nobody has said otherwise it is told not to.
    """
    apt = installer()
    if postgres() or apt is None:
        return
    told = Path("/etc/postgresql-common/createcluster.conf")
    if not told.exists():
        run(*apt[:-1], "mkdir", "-p", told.parent)
        run(*apt[:-1], "sh", "-c", f"echo 'create_main_cluster = false' > {told}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    print("setup: installing PostgreSQL for its tests", flush=True)
    # With an init system the pooler's package would start it as a service.
    names = ["postgresql"] if Path("/run/systemd/system").exists() else ["postgresql", "pgbouncer"]
    options = ["-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", *APT_WAIT]
    try:
        run(*apt, "update", "-qq")
        run(*apt, "install", *options, *names)
    except subprocess.CalledProcessError:
        print("setup: it could not be installed; the tests of PostgreSQL will be skipped", flush=True)


def offer_prometheus() -> None:
    """For the tests only, and without its service: the package is unpacked and not installed, which needs no rights."""
    if shutil.which("prometheus", path=f"{BIN}{os.pathsep}{os.environ['PATH']}") or not shutil.which("apt-get"):
        return
    print("setup: fetching Prometheus for its tests", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["apt-get", "download", "-qq", "prometheus"], cwd=folder, check=True)
            package = next(Path(folder).glob("prometheus_*.deb"))
            run("dpkg-deb", "--extract", package, folder)
            shutil.copy2(Path(folder) / "usr/bin/prometheus", BIN / "prometheus")
    except (subprocess.CalledProcessError, OSError, StopIteration):
        print("setup: it could not be fetched; the tests of Prometheus will be skipped", flush=True)


def offer_kubernetes() -> None:
    """For the tests only: minutes of compiling, once for each version of its source. Without it they are skipped."""
    try:
        run(BIN / "python", "-m", "tests.lab", "build", "kubernetes")
    except (subprocess.CalledProcessError, OSError):
        print("setup: it could not be built; the tests of Kubernetes will be skipped", flush=True)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (this is where older ones are told)
        sys.exit("setup: Python 3.11 or newer is needed; name one with PYTHON=...")
    ready = STAMP.is_file() and STAMP.read_text() == digest() and inside()
    if not ready:
        print(f"setup: installing the tools into {VENV.name}", flush=True)
        make_venv()
        install_tools()
    if server() is None:
        install_server()
    if "--all" in sys.argv[1:]:
        offer_postgres()
        offer_prometheus()
        offer_kubernetes()
    STAMP.write_text(digest())


if __name__ == "__main__":
    main()
