"""Which policies a tenant may name: those of the library, and layers of its own. Never a path."""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from guard.errors import InvalidPolicy, PolicyNotFound
from guard.types import Policy
from policies import load
from policies.store import PREFIX, PolicyStore
from serve.store.people import PolicyLayer
from serve.store.session import Database
from serve.store.tables import Tenant

_REMEMBER_SECONDS = 2.0
"""A tenant's choice of policy takes so long to be in force; edits of the policy itself are at once."""
_LAYER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


def layer_store_name(tenant_id: str, layer: str) -> str:
    """Return what the policy store calls a tenant's layer. Raises `InvalidPolicy` for a name that is not allowed.

    Tenants share one store, so the name holds a digest of both: no tenant can spell another one's layer.
    """
    if not _LAYER.fullmatch(layer):
        raise InvalidPolicy(f"A layer is named in a-z, 0-9, _, . and -, at most 63 characters; got {layer[:80]!r}.")
    digest = hashlib.sha256(f"{tenant_id}\0{layer}".encode()).hexdigest()[:24]
    return f"t-{digest}"


class PolicyAccess:
    """Turns the names that requests use into policies."""

    def __init__(self, database: Database, store: PolicyStore) -> None:
        self.database = database
        self.store = store
        self._lock = threading.Lock()
        self._own: dict[str, tuple[float, str | None]] = {}

    def resolve(self, tenant_id: str, name: str | None) -> Policy | None:
        """Return a policy by name; without one the tenant's own, or None where it has none.

        Raises:
            PolicyNotFound: it is neither in the library nor a layer of this tenant.
            InvalidPolicy: a layer cannot be used at present.
        """
        name = self._own_name(tenant_id) if name is None else name
        if name is None:
            return None
        if name in load.library():
            return load.load_policy(name)
        if name.startswith(PREFIX):
            found = self.store.effective(self.layer(tenant_id, name.removeprefix(PREFIX))).policy
            return replace(found, name=name)  # the store's own name of a layer means nothing to the tenant
        known = ", ".join(load.library())
        raise PolicyNotFound(
            f"There is no policy {name[:80]!r}; there are: {known}, and `layer:<name>` for your own.",
            hint="List the policies with GET /v1/policies.",
        )

    def needs_no_query(self, tenant_id: str, name: str | None) -> bool:
        """Whether `resolve` would ask no database now: the name is the library's, or the tenant's own is remembered."""
        if name is None:
            at, own = self._own.get(tenant_id, (-math.inf, None))
            return time.monotonic() - at < _REMEMBER_SECONDS and (own is None or own in load.library())
        return name in load.library()

    def _own_name(self, tenant_id: str) -> str | None:
        with self._lock:
            at, name = self._own.get(tenant_id, (-math.inf, None))
        if time.monotonic() - at < _REMEMBER_SECONDS:
            return name
        with self.database.read() as session:
            name = session.scalar(select(Tenant.policy).where(Tenant.id == tenant_id))
        with self._lock:
            self._own[tenant_id] = (time.monotonic(), name)
        return name

    def layer(self, tenant_id: str, layer: str) -> str:
        """Return the store's name of a layer of this tenant. Raises `PolicyNotFound`."""
        with self.database.read() as session:
            row = session.get(PolicyLayer, (tenant_id, layer))
        if row is None:
            raise PolicyNotFound(f"There is no layer {layer[:80]!r}.", hint="List the policies with GET /v1/policies.")
        return row.store_name

    def layers(self, tenant_id: str) -> list[PolicyLayer]:
        """Return the layers of a tenant, by name."""
        with self.database.read() as session:
            query = select(PolicyLayer).where(PolicyLayer.tenant_id == tenant_id).order_by(PolicyLayer.name)
            return list(session.scalars(query))

    def ensure(self, session: Session, tenant_id: str, layer: str) -> str:
        """Note that a layer is this tenant's, on its first edit, and return the store's name of it."""
        name = layer_store_name(tenant_id, layer)
        if session.get(PolicyLayer, (tenant_id, layer)) is None:
            session.add(PolicyLayer(tenant_id=tenant_id, name=layer, store_name=name))
            session.flush()
        return name
