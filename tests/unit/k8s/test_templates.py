# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Comparing pod templates, and showing what differs without a secret."""

from __future__ import annotations

from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.templates import (
    Reference,
    differences,
    images,
    placement,
    references,
    same,
)


def template(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": list(containers), **spec}}


def app(**fields: Any) -> dict[str, Any]:
    return {"name": "app", "image": "app:1", **fields}


def test_what_controllers_add_makes_no_difference() -> None:
    one, other = template(app()), template(app())
    other["metadata"] = {
        "creationTimestamp": None,
        "labels": {"app": "web", "pod-template-hash": "abc"},
        "annotations": {},
    }
    other["$patch"] = "replace"
    assert same(one, other)
    other["metadata"]["labels"]["tier"] = "front"
    assert not same(one, other)
    assert other["metadata"]["labels"]["pod-template-hash"] == "abc", "the argument was changed"


def test_the_order_of_containers_counts() -> None:
    """The API server makes a new revision of it, too."""
    assert not same(template(app(), {"name": "b"}), template({"name": "b"}, app()))


def test_differences_go_by_name() -> None:
    old = template(
        app(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]), {"name": "side", "image": "s:1"}
    )
    new = template({"name": "side", "image": "s:1"}, app(image="app:2", env=[{"name": "B", "value": "3"}]))
    before, after = differences(old, new)
    assert before == {
        "spec.containers[app].image": "app:1",
        "spec.containers[app].env[A].value": "1",
        "spec.containers[app].env[B].value": "2",
    }
    assert after == {"spec.containers[app].image": "app:2", "spec.containers[app].env[B].value": "3"}


def test_values_that_may_be_secret_are_shown_as_digests() -> None:
    def of(value: str) -> dict[str, Any]:
        return template(app(env=[{"name": name, "value": value} for name in ("DB_PASSWORD", "DATABASE_URL", "MODE")]))

    before, after = differences(of("canary-old"), of("canary-new"))
    shown = str({name: value for name, value in {**before, **after}.items() if "MODE" not in name})
    assert "canary" not in shown
    assert after["spec.containers[app].env[DB_PASSWORD].value"].startswith("sha256:")
    assert before != after
    assert after["spec.containers[app].env[MODE].value"] == "canary-new"


def test_long_values_are_cut_and_still_differ() -> None:
    before, after = differences(template(app(command=["x" * 900])), template(app(command=["x" * 901])))
    assert before != after
    assert len(str(after)) < 400


def test_references_of_every_kind() -> None:
    found = references(
        template(
            app(
                envFrom=[{"configMapRef": {"name": "all"}}, {"secretRef": {"name": "more", "optional": True}}],
                env=[
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "dsn"}}},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "C", "value": "plain"},
                ],
            ),
            volumes=[
                {"name": "a", "configMap": {"name": "files"}},
                {"name": "b", "secret": {"secretName": "certificate"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "part"}}, {"downwardAPI": {}}]}},
                {"name": "d", "emptyDir": {}},
            ],
        )
    )
    assert found == (
        Reference("ConfigMap", "all"),
        Reference("Secret", "more", optional=True),
        Reference("Secret", "db", "dsn"),
        Reference("ConfigMap", "files"),
        Reference("Secret", "certificate"),
        Reference("Secret", "part"),
    )


def test_images_and_placement() -> None:
    one = template(app(), initContainers=[{"name": "first", "image": "i:1"}])
    assert images(one) == {"first": "i:1", "app": "app:1"}
    assert placement(one) == placement(template(app(image="app:2"), initContainers=[{"name": "first"}]))
    assert placement(one) != placement(template(app(resources={"requests": {"cpu": "2"}})))
    assert placement(one) != placement(template(app(), nodeSelector={"disk": "fast"}))
