# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is stored in a lease, and when the run that holds it is certainly dead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._redis.holder import Holder, Processes, holder, is_gone
from ansible_collections.sre.runbooks.plugins.module_utils._redis.lease import Lease

WORKER = ("python3", "/usr/bin/ansible-playbook", "site.yml")
Spawn = Callable[..., None]


@pytest.fixture
def proc(tmp_path: Path) -> Processes:
    """A machine's /proc, empty of processes."""
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("b00t\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026531836]")
    return Processes(tmp_path)


@pytest.fixture
def spawn(proc: Processes) -> Spawn:
    def make(pid: int, parent: int, *words: str, started: int = 100, state: str = "S", name: str = "x y) (z") -> None:
        folder = proc.root / str(pid)
        folder.mkdir(exist_ok=True)
        rest = " ".join(["0"] * 17)
        (folder / "stat").write_text(f"{pid} ({name}) {state} {parent} {rest} {started} 0 0")
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))

    return make


def test_the_value_can_be_read_again() -> None:
    lease = Lease('a "quoted" owner, "fence": 0}', Holder("me@here", "b00t", 7, "100"), "2030-01-31T12:00:00Z")
    assert Lease.load(f"{lease.head()}4711}}".encode()) == Lease(lease.owner, lease.holder, lease.since, 4711)


@pytest.mark.parametrize("raw", [b"", b"held", b"[]", b"{}", b'{"owner": "A"}', b"\xff"])
def test_a_value_of_somebody_else_is_a_conflict(raw: bytes) -> None:
    with pytest.raises(OpsError) as refused:
        Lease.load(raw)
    assert refused.value.code == "lease_unreadable"


class TestController:
    def test_a_worker_leads_to_its_playbook(self, proc: Processes, spawn: Spawn) -> None:
        spawn(10, 1, "bash")
        spawn(20, 10, *WORKER)
        spawn(30, 20, *WORKER)
        assert proc.controller(30) == 20

    def test_a_shipped_module_leads_to_the_playbook_too(self, proc: Processes, spawn: Spawn) -> None:
        spawn(20, 1, *WORKER)
        spawn(30, 20, *WORKER)
        spawn(40, 30, "/bin/sh", "-c", "python3 AnsiballZ_lease.py && sleep 0")
        spawn(50, 40, "python3", "/home/ops/.ansible/tmp/x/AnsiballZ_lease.py")
        assert proc.controller(50) == 20

    def test_the_inner_of_two_playbooks_counts(self, proc: Processes, spawn: Spawn) -> None:
        spawn(20, 1, *WORKER)
        spawn(30, 20, "/bin/sh", "-c", "ansible-playbook inner.yml")
        spawn(40, 30, *WORKER)
        assert proc.controller(40) == 40

    @pytest.mark.parametrize(
        "words",
        [
            ("python3", "-m", "pytest", "-k", "test_ansible-playbook"),
            ("bash", "-c", "ansible-playbook site.yml"),
            ("vim", "ansible-playbook"),
            ("",),
        ],
    )
    def test_what_only_looks_like_one(self, proc: Processes, spawn: Spawn, words: tuple[str, ...]) -> None:
        spawn(20, 1, *words)
        assert proc.controller(20) == 0

    def test_started_as_a_python_module(self, proc: Processes, spawn: Spawn) -> None:
        spawn(20, 1, "/venv/bin/python", "/venv/lib/python3.12/site-packages/ansible/__main__.py", "playbook", "x.yml")
        assert proc.controller(20) == 20


class TestDeath:
    def test_it_lives(self, proc: Processes, spawn: Spawn) -> None:
        spawn(20, 1, *WORKER, started=100)
        assert not is_gone(Holder("", proc.place, 20, "100"), proc)

    def test_it_has_ended(self, proc: Processes) -> None:
        assert is_gone(Holder("", proc.place, 20, "100"), proc)

    def test_its_number_belongs_to_another_now(self, proc: Processes, spawn: Spawn) -> None:
        spawn(20, 1, *WORKER, started=999)
        assert is_gone(Holder("", proc.place, 20, "100"), proc)

    def test_nobody_has_buried_it(self, proc: Processes, spawn: Spawn) -> None:
        spawn(20, 1, *WORKER, started=100, state="Z")
        assert is_gone(Holder("", proc.place, 20, "100"), proc)

    def test_another_machine_boot_or_container_is_not_judged(self, proc: Processes) -> None:
        assert not is_gone(Holder("", proc.place.replace("b00t", "b002"), 20, "100"), proc)
        assert not is_gone(Holder("", proc.place.replace("4026531836", "4026532999"), 20, "100"), proc)
        assert not is_gone(Holder("", "", 20, "100"), proc)
        assert not is_gone(Holder("", proc.place, 0, ""), proc)

    def test_a_machine_without_proc_knows_nothing(self, tmp_path: Path) -> None:
        none = Processes(tmp_path / "nothing")
        found = holder(none)
        assert (found.place, found.pid, found.started) == ("", 0, "")
        assert not is_gone(Holder("", "", 20, "100"), none)
