"""/health: for a supervisor or a load balancer; without a login, and without details."""

from typing import Literal

from dishka.integrations.fastapi import FromDishka
from fastapi import APIRouter

from blindpost.core.cache import Cache
from blindpost.core.database import Database
from blindpost.core.hub import Hub
from blindpost.errors import ShuttingDown, Unavailable
from blindpost.routers.problems import responses
from blindpost.routers.strict import StrictRoute
from blindpost.services.models.common import Done, Outgoing

router = APIRouter(prefix="/health", tags=["health"], route_class=StrictRoute)


class Ready(Outgoing):
    """Everything that a request may need answers."""

    status: Literal["ok"] = "ok"
    postgresql: Literal["ok"] = "ok"
    redis: Literal["ok"] = "ok"
    listener: Literal["ok"] = "ok"


@router.get("/live", responses=responses())
async def live() -> Done:
    """Tell that the process runs."""
    return Done()


@router.get("/ready", responses=responses(ShuttingDown))
async def ready(database: FromDishka[Database], cache: FromDishka[Cache], hub: FromDishka[Hub]) -> Ready:
    """Ask PostgreSQL, Redis and the listener."""
    await database.ping()
    await cache.ping()
    if hub.is_closing:
        raise ShuttingDown
    if not hub.listening.is_set():
        raise Unavailable("The listening connection is being opened again; messages wait for the sweep.")
    return Ready()
