# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options before variables, never two addresses mixed; a kubeconfig leaves nothing behind, and says what is wrong."""

from __future__ import annotations

import base64
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.address import Address, address_of, open_line
from tests.lab.certificates import make_certificates

HOME = {"HOME": "/nobody"}


def test_nothing_given_is_the_usual_kubeconfig() -> None:
    assert address_of({}, HOME) == Address(kubeconfig="/nobody/.kube/config")


def test_variables_count_in_their_order() -> None:
    both = {**HOME, "KUBECONFIG": "/one:/two", "K8S_AUTH_KUBECONFIG": "/three"}
    assert address_of({}, {**HOME, "KUBECONFIG": "/one:/two"}).kubeconfig == "/one:/two"
    assert address_of({}, both).kubeconfig == "/three"
    assert address_of({"kubeconfig": "/four"}, both).kubeconfig == "/four"


@pytest.mark.parametrize("option", [{"kubeconfig": "/mine"}, {"context": "mine"}])
def test_a_variable_does_not_lead_to_another_cluster_than_the_option(option: dict[str, str]) -> None:
    environ = {**HOME, "K8S_AUTH_HOST": "https://production:6443"}
    assert address_of({}, environ).host == "https://production:6443"
    assert address_of(option, environ).host == ""


@pytest.mark.parametrize(("text", "expected"), [("", None), ("no", False), ("False", False), ("yes", True)])
def test_whether_to_verify(text: str, expected: bool | None) -> None:
    assert address_of({}, {**HOME, "K8S_AUTH_VERIFY_SSL": text}).validate_certs is expected
    assert address_of({"validate_certs": True}, {**HOME, "K8S_AUTH_VERIFY_SSL": "no"}).validate_certs is True


def test_groups_without_a_user_are_refused() -> None:
    with pytest.raises(OpsError, match="impersonate_groups"):
        address_of({"impersonate_groups": ["admins"]}, HOME)


def test_a_token_is_not_shown() -> None:
    assert "canary" not in repr(address_of({"api_key": "canary"}, HOME))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Any:
    """Writes one for a user."""

    def write(user: dict[str, Any], **cluster: Any) -> str:
        place = {"server": "https://127.0.0.1:6443", **cluster}
        known = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": place}],
            "users": [{"name": "u", "user": user}],
        }
        file = tmp_path / "config"
        file.write_text(yaml.safe_dump(known))
        return str(file)

    return write


def opened(path: str, **more: Any) -> Any:
    return open_line(Address(kubeconfig=path, **more))


def test_keys_in_a_kubeconfig_leave_no_file(kubeconfig: Any, scratch: Path, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    authority, cert, key = (
        base64.b64encode(file.read_bytes()).decode() for file in (made.ca_cert, made.client_cert, made.client_key)
    )
    user = {"client-certificate-data": cert, "client-key-data": key}
    path = kubeconfig(user, **{"certificate-authority-data": authority})
    for _again in range(2):  # the client remembers files that it made before
        line = opened(path)
        trust = line.pool.connection_pool_kw["ssl_context"]
        assert trust.get_ca_certs()
        assert not trust.verify_flags & ssl.VERIFY_X509_STRICT
        assert not [name for name in ("cert_file", "key_file", "ca_certs") if line.pool.connection_pool_kw.get(name)]
    assert list(scratch.iterdir()) == []


def test_a_token_of_the_options_outranks_the_kubeconfig(kubeconfig: Any) -> None:
    path = kubeconfig({"token": "theirs"})
    assert list(opened(path).headers()) == [("authorization", "Bearer theirs")]
    assert list(opened(path, api_key="mine").headers()) == [("authorization", "Bearer mine")]


def test_each_group_has_a_header(kubeconfig: Any) -> None:
    line = opened(kubeconfig({}), impersonate_user="ann", impersonate_groups=("a", "b"))
    assert list(line.headers()) == [("Impersonate-User", "ann"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b")]


def test_several_clusters_behind_one_host_have_several_places() -> None:
    first = open_line(Address(host="https://rancher.example/k8s/clusters/c-1"))
    assert first.place == "rancher.example/k8s/clusters/c-1"
    assert open_line(Address(host="h.example:6443")).place == "h.example:6443"


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}


@pytest.mark.parametrize("command", ["no-such-plugin", "false"])
def test_a_program_for_tokens_that_fails(kubeconfig: Any, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OpsError) as caught:
        opened(kubeconfig({"exec": {**EXEC, "command": command}}))
    assert (caught.value.kind, caught.value.code) == ("auth", "exec_plugin")
    assert capfd.readouterr().err == ""
    assert not [one for one in logging.getLogger().handlers if type(one).__name__ == "Listener"]


def test_a_program_for_tokens_that_works(kubeconfig: Any, tmp_path: Path) -> None:
    program = tmp_path / "plugin"
    answer = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}'
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    line = opened(kubeconfig({"exec": {**EXEC, "command": str(program)}}))
    assert list(line.headers()) == [("authorization", "Bearer t")]


@pytest.mark.parametrize("content", ["{ a: [", "", "words", "[]", "a: 1", "contexts: {}"])
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(OpsError) as caught:
        opened(str(file))
    assert (caught.value.kind, caught.value.code) == ("precondition", "kubeconfig")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kubeconfig": "/none/config"}, ("not_found", "no_kubeconfig")),
        ({"host": "h", "ca_cert": "/none/ca"}, ("not_found", "no_file")),
        ({"host": "h", "client_cert": __file__, "client_key": __file__}, ("auth", "certificate")),
    ],
)
def test_files_that_are_not_there(options: dict[str, str], expected: tuple[str, str]) -> None:
    with pytest.raises(OpsError) as caught:
        open_line(Address(**options))
    assert (caught.value.kind, caught.value.code) == expected


def test_a_context_that_is_not_there(kubeconfig: Any) -> None:
    with pytest.raises(OpsError) as caught:
        opened(kubeconfig({}), context="other")
    assert (caught.value.kind, caught.value.code) == ("not_found", "no_context")
