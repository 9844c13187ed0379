"""The Secret of each session: its own secret, its account files, and its user's credentials.

Beside it is a second one where the image is private: nodes read it, and it has a type of its own.
"""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from canfar_auth.identity import PosixIds
from canfar_spawner.cluster.api import Api, ApiRefused, ApiUnavailable, connected
from canfar_spawner.cluster.pod import ID, labels, pull_secret_name, secret_data, secret_name
from canfar_spawner.credentials import EXPIRES
from canfar_spawner.spec import SessionSpec

log = logging.getLogger("canfar.credentials")

_PULL, _PULL_TYPE = ".dockerconfigjson", "kubernetes.io/dockerconfigjson"
_OWNER = "canfar.net/owner"
"""The annotation with the user's name, which need not be fit for a label."""


class SessionSecrets:
    """A `CredentialStore` with one Secret for each session, in the namespace of the sessions.

    A Secret is made before its pod, whose it becomes with `give_to`: it goes with the pod, whoever deletes it.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self._prepared: dict[str, dict[str, Any]] = {}
        """Secrets that are to be made, by session."""
        self._pulls: dict[str, dict[str, Any]] = {}
        """Pull Secrets that are to be made, by session."""
        self._pulling: set[str] = set()
        """Sessions that start or run with a pull Secret, as far as this hub started them."""
        self._read: dict[str, str] | None = None

    # The life of one Secret

    def prepare(self, spec: SessionSpec, secret: str, pull: str = "") -> None:
        """Has the Secret of a session that starts made with the first credentials, or by `make`.

        `pull` is the content of its pull Secret; without, it has none.
        """
        self._prepared[spec.id] = _secret(
            spec, secret_name(spec.id), "Opaque", _encoded(secret_data(spec, secret))
        )
        self._pulling.discard(spec.id)
        if pull:
            data = _encoded({_PULL: pull})
            self._pulls[spec.id] = _secret(spec, pull_secret_name(spec.id), _PULL_TYPE, data)
            self._pulling.add(spec.id)

    async def make(self, session: str) -> None:
        """Makes what the first credentials did not bring. Raises ``ApiUnavailable``, ``ApiRefused``."""
        await self._make_prepared(self._prepared, session)
        await self._make_prepared(self._pulls, session)

    async def _make_prepared(self, prepared: dict[str, dict[str, Any]], session: str) -> None:
        """Makes a Secret that is to be made.

        One that is there already is an earlier start's, with whose pod it would go, or was made by a call whose
        answer was lost: a new one takes its place.
        """
        body = prepared.get(session)
        if body is None:
            return
        try:
            await self._api.create(self._path, body)
        except ApiRefused as refused:
            if refused.status != 409:
                raise
            await self._api.delete(f"{self._path}/{body['metadata']['name']}")
            await self._api.create(self._path, body)
        prepared.pop(session, None)

    async def give_to(self, session: str, pod: str, uid: str) -> None:
        """Makes a pod the owner of its session's Secrets."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        change = {"metadata": {"ownerReferences": [owner]}}
        await self._api.patch(self._of(session), change)
        if session in self._pulling:
            await self._api.patch(self._pull_of(session), change)

    def _of(self, session: str) -> str:
        return f"{self._path}/{secret_name(session)}"

    def _pull_of(self, session: str) -> str:
        return f"{self._path}/{pull_secret_name(session)}"

    # CredentialStore

    async def write(
        self,
        owner: str,
        sessions: Collection[str],
        files: Mapping[str, str | None],
        ids: PosixIds | None,
    ) -> None:
        """Replaces files in the Secrets of the owner's sessions; None removes one. Raises ``OSError``."""
        failed: list[ApiUnavailable | ApiRefused] = []
        for session in sorted(sessions):
            try:
                await self._write(session, files)
            except (ApiUnavailable, ApiRefused) as error:  # one that fails must not keep the others from theirs
                failed.append(error)
        if failed:
            raise _as_os_error(failed[0])

    async def _write(self, session: str, files: Mapping[str, str | None]) -> None:
        if (body := self._prepared.get(session)) is not None:
            there = {name: text for name, text in files.items() if text is not None}
            body["data"] |= _encoded(there)
            await self._make_prepared(self._prepared, session)
            return
        try:
            await self._api.patch(self._of(session), {"data": _encoded(files)})
        except ApiRefused as refused:
            if refused.status != 404:  # gone with its pod, whose end the hub is about to hear of
                raise

    async def remove(self, owner: str, session: str, left: Collection[str]) -> None:
        """Removes the Secrets of a session that ended. Raises ``OSError``."""
        self._prepared.pop(session, None)
        self._pulls.pop(session, None)
        try:
            await self._api.delete(self._of(session))
            if session in self._pulling:  # others go with their pods
                await self._api.delete(self._pull_of(session))
                self._pulling.discard(session)
        except (ApiUnavailable, ApiRefused) as error:
            raise _as_os_error(error) from None

    async def sweep(self, running: Mapping[str, Collection[str]]) -> None:
        """Removes the Secrets of sessions that do not run. Raises ``OSError``."""
        self._read = None
        kept = {session for sessions in running.values() for session in sessions} | self._prepared.keys()
        try:
            for item in await self._list():
                session = item["metadata"]["labels"][ID]
                if session not in kept:
                    log.info("Credentials of session %s are removed: it does not run.", session)
                    await self._api.delete(f"{self._path}/{item['metadata']['name']}")
        except (ApiUnavailable, ApiRefused) as error:
            raise _as_os_error(error) from None

    async def read(self, owner: str) -> str:
        """The text of ``EXPIRES``; empty if there is none. Raises ``OSError``.

        It is asked for each owner when the hub begins, so one list serves all, until `sweep`.
        """
        if self._read is None:
            found: dict[str, str] = defaultdict(str)
            try:
                for item in await self._list():
                    name = (item["metadata"].get("annotations") or {}).get(_OWNER, "")
                    found[name] = found[name] or _decoded((item.get("data") or {}).get(EXPIRES, ""))
            except (ApiUnavailable, ApiRefused) as error:
                raise _as_os_error(error) from None
            self._read = found
        return self._read[owner]

    async def _list(self) -> list[dict[str, Any]]:
        pages = self._api.pages(self._path, labelSelector=ID)
        return [item async for page in pages for item in page.get("items") or ()]


def store(namespace: str) -> SessionSecrets:
    """The Secrets of a hub that finds its cluster as client programs do: from within it, or by KUBECONFIG."""
    return SessionSecrets(Api(connected), namespace)


def _secret(spec: SessionSpec, name: str, kind: str, data: Mapping[str, str | None]) -> dict[str, Any]:
    """One of a session's Secrets, as it is sent."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "canfar", **labels(spec)},
            "annotations": {_OWNER: spec.owner},
        },
        "type": kind,
        "data": dict(data),
    }


def _encoded(files: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: _base64(text) if text is not None else None for name, text in files.items()}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


def _as_os_error(error: ApiUnavailable | ApiRefused) -> OSError:
    """What a `CredentialStore` raises, with words for users; what the API server says is for the log."""
    log.warning("A Secret could not be changed: %s", error)
    return OSError(5, "the cluster does not take it")
