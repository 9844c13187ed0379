"""Homes on a cluster's shared volume: made, or looked at, by a short Job before a user's first session."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

from canfar_auth.identity import PosixIds
from canfar_auth.outbound import Outbound, Unavailable
from canfar_site.settings import Site
from canfar_spawner.cluster.api import Api
from canfar_spawner.cluster.pod import CREDENTIALS
from canfar_spawner.credentials import CERTIFICATE
from canfar_spawner.spec import Refused, SessionSpec

log = logging.getLogger("canfar.homes")

_EXPORT = "/export"  # where the Job sees the volume
_KEPT = 300  # seconds that an ended Job is kept, for administrators who look
_LONGEST = 120  # seconds that a Job may take
_THERE = 409  # a service's answer: it is there already
TokenOf = Callable[[str], Awaitable[str]]
"""Gives a user's access token; raises ``Unavailable``."""
_POWERS = ["CHOWN", "FOWNER", "DAC_OVERRIDE"]


class Homes:
    """Sees to it that users have a home before their session starts; each is looked at once by a hub."""

    def __init__(self, api: Api, site: Site, namespace: str, token: TokenOf) -> None:
        if site.cluster is None:
            raise ValueError("the site has no cluster")
        self._api, self._cluster, self._site = api, site.cluster, site
        self._token, self._outbound = token, Outbound(site.token_hosts)
        is_ours = self._cluster.homes.source == "provisioner"
        self._namespace = self._cluster.homes.namespace if is_ours else namespace
        self._seen: set[tuple[str, int, int]] = set()
        self._looking: dict[str, asyncio.Lock] = {}

    async def ensure(self, spec: SessionSpec) -> None:
        """Returns once the session's owner has a home.

        Raises ``Refused`` (409) where there is none that is theirs, ``ApiUnavailable`` and ``ApiRefused``.
        """
        if spec.ids is None:
            raise ValueError("a session in a cluster has numeric ids")
        known = (spec.owner, spec.ids.uid, spec.ids.gid)
        async with self._looking.setdefault(spec.owner, asyncio.Lock()):
            if known not in self._seen:
                if self._cluster.homes.service:
                    await self._ask(self._cluster.homes.service, spec)
                await self._look(spec, spec.ids)
                self._seen.add(known)

    async def _ask(self, service: str, spec: SessionSpec) -> None:
        """Has the site's storage service make the home, in the user's name."""
        try:
            token = await self._token(spec.owner)
            address = service.replace("{username}", quote(spec.owner, safe=""))
            answer = await self._outbound.ask("PUT", address, token=token)
        except Unavailable as error:
            log.warning("The storage service cannot be asked for the home of %s: %s", spec.owner, error)
            sentence = "The storage service does not answer, so your home cannot be made. Try again later."
            raise Refused("storage", 503, sentence) from None
        if answer.status >= 400 and answer.status != _THERE:
            log.error("The storage service answers %d for the home of %s.", answer.status, spec.owner)
            sentence = f"The storage service makes no home for you (HTTP {answer.status})."
            raise Refused("storage", 409, f"{sentence} Tell {self._site.contact}.")

    async def _look(self, spec: SessionSpec, ids: PosixIds) -> None:
        name = f"canfar-home-{spec.id}-{secrets.token_hex(3)}"
        jobs = f"/apis/batch/v1/namespaces/{self._namespace}/jobs"
        made = await self._api.create(jobs, self._job(name, spec.owner, ids))
        async with asyncio.timeout(_LONGEST):
            await self._ended(jobs, name, made["metadata"]["resourceVersion"])
        answer = await self._answer(name)
        if "home" in answer:
            log.info("Home of %s: %s.", spec.owner, answer["home"])
            return
        sentence = answer.get("sentence") or f"Your home {spec.home} cannot be looked at."
        raise Refused("storage", 409, f"{sentence} Tell {self._site.contact}.")

    async def _ended(self, jobs: str, name: str, version: str) -> None:
        query = {"fieldSelector": f"metadata.name={name}", "resourceVersion": version}
        while True:
            async with self._api.events(jobs, _LONGEST, **query) as events:
                async for event in events:
                    conditions = (event["object"].get("status") or {}).get("conditions") or ()
                    if any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions):
                        return

    async def _answer(self, name: str) -> Mapping[str, Any]:
        """What the Job said at its end; empty where it said nothing."""
        pods = f"/api/v1/namespaces/{self._namespace}/pods"
        found = await self._api.get(pods, labelSelector=f"job-name={name}")
        for pod in found.get("items") or ():
            for container in (pod.get("status") or {}).get("containerStatuses") or ():
                message = ((container.get("state") or {}).get("terminated") or {}).get("message")
                try:
                    answer = json.loads(message or "")
                except ValueError:
                    log.error("The Job %s did not say what it did: %s", name, message)
                    continue
                if isinstance(answer, dict):
                    return answer
        return {}

    def _job(self, name: str, owner: str, ids: PosixIds) -> dict[str, Any]:
        makes = self._cluster.homes.source == "provisioner"
        volume = self._cluster.volume
        security: dict[str, Any] = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], **({"add": _POWERS} if makes else {})},
        }
        claim = self._cluster.homes.claim if makes else volume.claim
        container = {
            "name": "home",
            "image": self._cluster.homes.image,
            "imagePullPolicy": "IfNotPresent",
            "args": _arguments(self._site, makes, owner, ids),
            "securityContext": security,
            "terminationMessagePolicy": "File",
            "volumeMounts": [
                {
                    "name": "data",
                    "mountPath": _EXPORT,
                    "readOnly": not makes,
                    **({"subPath": volume.sub_path} if volume.sub_path else {}),
                }
            ],
            "resources": {
                "requests": {"cpu": "10m", "memory": "32M"},
                "limits": {"cpu": "1", "memory": "128M"},
            },
        }
        # One that only looks is in the namespace of sessions, which enforces the level `restricted`.
        looks = {"runAsNonRoot": True, "runAsUser": ids.uid, "runAsGroup": ids.gid}
        account = {"runAsUser": 0} if makes else looks
        pod = {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "securityContext": {**account, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        }
        labels = {"app.kubernetes.io/part-of": "canfar", "app.kubernetes.io/component": "home"}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": _LONGEST,
                "ttlSecondsAfterFinished": _KEPT,
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }


def _arguments(site: Site, makes: bool, owner: str, ids: PosixIds) -> list[str]:
    found = [
        "make" if makes else "check",
        f"--root={_EXPORT}",
        f"--homes={site.storage.homes.name}",
        f"--user={owner}",  # in one word, since a name may begin with a hyphen
        f"--uid={ids.uid}",
        f"--gid={ids.gid}",
        "--answer=/dev/termination-log",
    ]
    if makes:
        found.append(f"--certificate={CREDENTIALS}/{CERTIFICATE}")
    # Kubernetes replaces references in arguments, too.
    return [argument.replace("$", "$$") for argument in found]
