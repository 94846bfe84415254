"""The application as a server starts it, in this process or in several: everything comes from the environment."""

from __future__ import annotations

import logging
import os
import sys

from fastapi import FastAPI

from guard.config import load_settings
from serve.app import make_app
from serve.service import build_service
from serve.settings import load_serve_settings
from serve.workers import start_workers

JOBS_VARIABLE = "GUARD_WITHOUT_JOBS"
"""Set where jobs are left to `guard worker`."""


_SWITCH_SECONDS = 0.001
"""How long a thread that judges may keep the interpreter while an answer waits; 5 ms by default, per hop."""


def create() -> FastAPI:
    """Return the application of this process's environment."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("serve.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
    sys.setswitchinterval(_SWITCH_SECONDS)
    settings, serve = load_settings(), load_serve_settings()
    without_jobs = bool(os.environ.get(JOBS_VARIABLE))
    return make_app(lambda: build_service(settings, serve), serve, run=None if without_jobs else start_workers)
