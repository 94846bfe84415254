"""Which policies a tenant may name: those of the library, and layers of its own. Never a path."""

from __future__ import annotations

import hashlib
import re
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

    def resolve(self, tenant_id: str, name: str | None) -> Policy | None:
        """Return a policy by name; without one the tenant's own, or None where it has none.

        Raises:
            PolicyNotFound: it is neither in the library nor a layer of this tenant.
            InvalidPolicy: a layer cannot be used at present.
        """
        if name is None:
            with self.database.read() as session:
                name = session.scalar(select(Tenant.policy).where(Tenant.id == tenant_id))
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
