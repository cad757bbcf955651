# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How to reach a cluster: options, then the variables of Ansible's and Kubernetes' own tools, then the pod one is in.

Reading a kubeconfig, its plug-ins for tokens and its certificates is left to the Kubernetes client. What comes out
is one connection pool and the headers that prove who one is.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.spec import Params

#: What the field already sets for its Kubernetes modules.
_VARIABLES = {
    "kubeconfig": "K8S_AUTH_KUBECONFIG",
    "context": "K8S_AUTH_CONTEXT",
    "host": "K8S_AUTH_HOST",
    "api_key": "K8S_AUTH_API_KEY",
    "ca_cert": "K8S_AUTH_SSL_CA_CERT",
    "client_cert": "K8S_AUTH_CERT_FILE",
    "client_key": "K8S_AUTH_KEY_FILE",
    "validate_certs": "K8S_AUTH_VERIFY_SSL",
    "proxy": "K8S_AUTH_PROXY",
    "impersonate_user": "K8S_AUTH_IMPERSONATE_USER",
}
_IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the options point. C(kubeconfig) and C(context) are empty for the client's defaults. Seconds."""

    kubeconfig: str = ""
    context: str = ""
    host: str = ""
    api_key: str = field(default="", repr=False)
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""
    validate_certs: bool | None = None
    proxy: str = ""
    impersonate_user: str = ""
    impersonate_groups: tuple[str, ...] = ()
    connect_timeout: float = 5.0
    request_timeout: float = 30.0
    in_pod: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """An opened way: the pool of connections, and a function that gives headers that are still valid.

    A header may come twice: each group that one acts as has its own.
    """

    url: str
    pool: Any
    headers: Callable[[], Iterable[tuple[str, str]]]

    @property
    def place(self) -> str:
        """C(host:port) of the API server."""
        return urlsplit(self.url).netloc


def address_of(params: Params, environ: Mapping[str, str]) -> Address:
    """The address from the options; a variable counts only where its option is not given."""
    found = {name: _given(params, name, environ) for name in _VARIABLES}
    verify = found.pop("validate_certs")
    nowhere = not (found["kubeconfig"] or found["host"] or found["context"] or environ.get("KUBECONFIG"))
    in_pod = nowhere and not _default_kubeconfig(environ).exists() and _IN_POD.exists()
    return Address(
        **found,
        validate_certs=None if verify == "" else verify.lower() not in ("false", "no", "0", "off"),
        impersonate_groups=tuple(params.get("impersonate_groups") or ()),
        connect_timeout=params.get("connect_timeout") or 5.0,
        request_timeout=params.get("request_timeout") or 30.0,
        in_pod=in_pod,
    )


def _given(params: Params, name: str, environ: Mapping[str, str]) -> str:
    value = params.get(name)
    return str(value) if value is not None else environ.get(_VARIABLES[name], "")


def _default_kubeconfig(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config"


def open_line(address: Address) -> Line:
    """Reads what has to be read, and opens nothing yet. Raises for a kubeconfig or context that is not there."""
    client = importlib.import_module("kubernetes.client")
    configuration = _configuration(address, client)
    for option, name in (
        ("ca_cert", "ssl_ca_cert"),
        ("client_cert", "cert_file"),
        ("client_key", "key_file"),
        ("proxy", "proxy"),
    ):
        if getattr(address, option):
            setattr(configuration, name, getattr(address, option))
    if address.validate_certs is not None:
        configuration.verify_ssl = address.validate_certs
    rest = importlib.import_module("kubernetes.client.rest").RESTClientObject(configuration)

    def headers() -> Iterable[tuple[str, str]]:
        return [*_identity(configuration), *_impersonated(address)]

    return Line(configuration.host.rstrip("/"), rest.pool_manager, headers)


def _configuration(address: Address, client: Any) -> Any:
    if address.host:
        configuration = client.Configuration()
        configuration.host = address.host if "://" in address.host else f"https://{address.host}"
        if address.api_key:
            configuration.api_key = {"authorization": f"Bearer {address.api_key}"}
        return configuration
    config = importlib.import_module("kubernetes.config")
    try:
        if address.in_pod:
            configuration = client.Configuration()
            config.load_incluster_config(client_configuration=configuration)
        else:
            configuration = _from_kubeconfig(address, config)
    except config.ConfigException as error:
        raise _unusable(address, str(error)) from error
    if address.api_key:
        configuration.api_key = {"authorization": f"Bearer {address.api_key}"}
    return configuration


def _from_kubeconfig(address: Address, config: Any) -> Any:
    paths = [Path(part).expanduser() for part in address.kubeconfig.split(os.pathsep) if part]
    path = os.pathsep.join(map(str, paths))
    if paths and not any(part.is_file() for part in paths):
        hint = "Name a kubeconfig that is there, in kubeconfig, K8S_AUTH_KUBECONFIG or KUBECONFIG."
        raise OpsError(Kind.NOT_FOUND, f"there is no kubeconfig {path}", hint, code="no_kubeconfig")
    try:
        return config.new_client_from_config(path or None, address.context or None).configuration
    except (ValueError, TypeError, AttributeError) as error:
        raise bad_parameter("kubeconfig", f"{path or 'the default one'} cannot be read ({error})") from error


def _unusable(address: Address, words: str) -> OpsError:
    if address.context and address.context in words:
        hint = "kubectl config get-contexts shows those that are there."
        return OpsError(Kind.NOT_FOUND, f"there is no context {address.context}", hint, code="no_context")
    if "exec" in words or "auth-provider" in words:
        hint = "The kubeconfig asks a program for its token. Install it where this runs, or give api_key."
        return OpsError(Kind.AUTH, words, hint, code="exec_plugin")
    hint = "Give kubeconfig and context, or host and api_key."
    code = "no_kubeconfig" if "No configuration found" in words or "no configuration" in words else "kubeconfig"
    return OpsError(Kind.NOT_FOUND if code == "no_kubeconfig" else Kind.PRECONDITION, words, hint, code=code)


def _identity(configuration: Any) -> list[tuple[str, str]]:
    """The client refreshes tokens that expire when it is asked for its settings."""
    token = configuration.auth_settings().get("BearerToken") or {}
    return [("authorization", str(token["value"]))] if token.get("value") else []


def _impersonated(address: Address) -> list[tuple[str, str]]:
    user = [("Impersonate-User", address.impersonate_user)] if address.impersonate_user else []
    return [*user, *(("Impersonate-Group", group) for group in address.impersonate_groups)]
