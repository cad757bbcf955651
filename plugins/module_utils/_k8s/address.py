# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How to reach a cluster: options, then the variables of Ansible's and Kubernetes' own tools, then the pod one is in.

Reading a kubeconfig, its plug-ins for tokens and its certificates is left to the Kubernetes client. What comes out
is one connection pool and the headers that prove who one is.
"""

from __future__ import annotations

import importlib
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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
    """Where the options point. C(context) is empty for the kubeconfig's current one. Seconds."""

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
        """C(host:port) of the API server; several clusters may be behind one host, each with a path of its own."""
        parts = urlsplit(self.url)
        return f"{parts.netloc}{parts.path}".rstrip("/")


def address_of(params: Params, environ: Mapping[str, str]) -> Address:
    """The address from the options; a variable counts only where no option says the same, or the contrary."""
    found = {name: _given(params, name, environ) for name in _VARIABLES}
    if params.get("kubeconfig") or params.get("context"):
        found["host"] = ""  # the variable would lead to another cluster than the option
    verify, named = found.pop("validate_certs"), found["kubeconfig"] or environ.get("KUBECONFIG", "")
    default = Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config"
    nowhere = not (named or found["host"] or found["context"] or default.exists())
    groups = tuple(params.get("impersonate_groups") or ())
    if groups and not found["impersonate_user"]:
        raise bad_parameter("impersonate_groups", "there is nobody to be in these groups", "Give impersonate_user too.")
    return Address(
        **{**found, "kubeconfig": named or str(default)},
        validate_certs=None if verify == "" else verify.lower() not in ("false", "no", "0", "off"),
        impersonate_groups=groups,
        connect_timeout=params.get("connect_timeout") or 5.0,
        request_timeout=params.get("request_timeout") or 30.0,
        in_pod=nowhere and _IN_POD.exists(),
    )


def _given(params: Params, name: str, environ: Mapping[str, str]) -> str:
    value = params.get(name)
    return str(value) if value is not None else environ.get(_VARIABLES[name], "")


def open_line(address: Address) -> Line:
    """Reads what has to be read, and opens nothing yet. Raises for a kubeconfig or context that is not there."""
    client = importlib.import_module("kubernetes.client")
    with _scratch() as scratch:
        configuration = _configuration(address, client, scratch)
        _override(configuration, address)
        pool = importlib.import_module("kubernetes.client.rest").RESTClientObject(configuration).pool_manager
        if configuration.host.startswith("https"):
            pool.connection_pool_kw.update(ssl_context=_trust(configuration), ca_certs=None, cert_file=None)
            pool.connection_pool_kw.update(key_file=None)

    def headers() -> Iterable[tuple[str, str]]:
        return [*_identity(configuration, address), *_impersonated(address)]

    return Line(configuration.host.rstrip("/"), pool, headers)


def _override(configuration: Any, address: Address) -> None:
    """Puts what the options say in the place of what the kubeconfig says."""
    if address.api_key:
        # The API server would take the certificate's user, not the token's.
        configuration.cert_file = configuration.key_file = None
    names = {"ca_cert": "ssl_ca_cert", "client_cert": "cert_file", "client_key": "key_file", "proxy": "proxy"}
    for option, name in names.items():
        value = getattr(address, option)
        if value and option != "proxy" and not Path(value).is_file():
            raise OpsError(Kind.NOT_FOUND, f"{option}: there is no file {value}", f"Correct {option}.", code="no_file")
        if value:
            setattr(configuration, name, value)
    if address.validate_certs is not None:
        configuration.verify_ssl = address.validate_certs


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for the files that the client makes of a kubeconfig's keys and certificates; nothing of it stays.

    The client itself removes them when the process ends, which a worker of Ansible never does in order.
    """
    forget = importlib.import_module("kubernetes.config.kube_config")._cleanup_temp_files
    with tempfile.TemporaryDirectory(prefix="sre-runbooks-") as folder:
        forget()
        try:
            yield folder
        finally:
            forget()


def _trust(configuration: Any) -> ssl.SSLContext:
    """The certificates, read now: their files are gone when the first connection is made."""
    util = importlib.import_module("urllib3.util")
    context: ssl.SSLContext = util.ssl_.create_urllib3_context(
        cert_reqs=ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE
    )
    # Many clusters' own authorities leave out extensions that Python 3.13 asks for, and kubectl does not.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(configuration.ssl_ca_cert or importlib.import_module("certifi").where())
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file or None)
    except ssl.SSLError as error:
        hint = "Check ca_cert, client_cert and client_key, or the same in the kubeconfig."
        raise OpsError(Kind.AUTH, f"a certificate or key cannot be read ({error})", hint, code="certificate") from error
    return context


def _configuration(address: Address, client: Any, scratch: str) -> Any:
    configuration = client.Configuration()
    if address.host:
        configuration.host = address.host if "://" in address.host else f"https://{address.host}"
        return configuration
    config = importlib.import_module("kubernetes.config")
    try:
        if address.in_pod:
            config.load_incluster_config(client_configuration=configuration)
        else:
            _load_kubeconfig(address, config, configuration, scratch)
    except config.ConfigException as error:
        raise _unusable(address, str(error)) from error
    return configuration


def _load_kubeconfig(address: Address, config: Any, configuration: Any, scratch: str) -> None:
    paths = [Path(part).expanduser() for part in address.kubeconfig.split(os.pathsep) if part]
    path = os.pathsep.join(map(str, paths))
    if not any(part.is_file() for part in paths):
        hint = "Name a kubeconfig that is there, in kubeconfig, K8S_AUTH_KUBECONFIG or KUBECONFIG; or give host."
        raise OpsError(Kind.NOT_FOUND, f"there is no kubeconfig {path}", hint, code="no_kubeconfig")
    with _complaints() as said:
        try:
            config.load_kube_config(
                path, address.context or None, client_configuration=configuration, temp_file_path=scratch
            )
        except config.ConfigException:
            raise
        except Exception as error:  # a broken file makes the client raise anything
            words = f"the kubeconfig {path} cannot be read ({' '.join(str(error).split())})"
            hint = "Compare it with what kubectl config view shows."
            raise OpsError(Kind.PRECONDITION, words, hint, code="kubeconfig") from error
    if said and not (configuration.api_key or configuration.cert_file or address.api_key or address.client_cert):
        raise _no_token(said[-1])


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What is logged meanwhile: of a program for tokens that fails, the client says so there and goes on without."""
    said: list[str] = []

    class Listener(logging.Handler):
        """Keeps the words, and keeps them from the screen."""

        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.ERROR)
    logging.getLogger().addHandler(listener)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(listener)


def _no_token(words: str) -> OpsError:
    hint = "The kubeconfig asks a program for its token. Install it where this runs and log in, or give api_key."
    return OpsError(Kind.AUTH, f"no token: {words}", hint, code="exec_plugin")


def _unusable(address: Address, words: str) -> OpsError:
    if address.context and address.context in words:
        hint = "kubectl config get-contexts shows those that are there."
        return OpsError(Kind.NOT_FOUND, f"there is no context {address.context}", hint, code="no_context")
    hint = "Give kubeconfig and context, or host and api_key."
    return OpsError(Kind.PRECONDITION, f"kubeconfig {address.kubeconfig}: {words}", hint, code="kubeconfig")


def _identity(configuration: Any, address: Address) -> list[tuple[str, str]]:
    """The client refreshes tokens that expire when it is asked for its settings."""
    if address.api_key:
        return [("authorization", f"Bearer {address.api_key}")]
    token = configuration.auth_settings().get("BearerToken") or {}
    return [("authorization", str(token["value"]))] if token.get("value") else []


def _impersonated(address: Address) -> list[tuple[str, str]]:
    user = [("Impersonate-User", address.impersonate_user)] if address.impersonate_user else []
    return [*user, *(("Impersonate-Group", group) for group in address.impersonate_groups)]
