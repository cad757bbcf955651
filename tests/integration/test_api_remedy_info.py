# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""api_remedy_info as a playbook calls it: with what other modules returned."""

from __future__ import annotations

import pytest

from tests.lab.process import HOST, free_port
from tests.support import call, play

ROLLOUT = {"state": "complete", "desired": 3, "updated": 3, "ready": 3, "old": 0, "restartable": True}


@pytest.mark.parametrize("check", [True, False])
def test_it_takes_the_findings_of_the_others_as_they_are(check: bool) -> None:
    probe = {"sre.runbooks.probe": {"url": f"http://{HOST}:{free_port()}/"}, "register": "seen"}
    way = {"sre.runbooks.redis_reach_info": {"host": HOST, "port": free_port()}, "register": "way"}
    judged = {
        "sre.runbooks.api_remedy_info": {
            "service": "shop/web",
            "symptoms": "{{ seen.findings }}",
            "rollout": ROLLOUT,
            "dependencies": {"redis": "{{ way.findings }}", "postgres": "{{ none.findings | default([]) }}"},
        }
    }
    result = play([probe, way, judged], check=check).result()
    remedy = result["remedy"]
    assert (remedy["choice"], remedy["reason"], remedy["runbook"]) == ("none", "dependency", "redis_unreachable")
    assert (remedy["mendable"], result["changed"], result["server"]["name"]) == (False, False, "shop/web")


def test_options_that_are_no_remedies() -> None:
    with pytest.raises(ValueError, match="reboot"):
        call("api_remedy_info", service="x", symptoms=[], allowed=["reboot"])
