"""video-guard: self-hosted video moderation.

Importing this package loads neither torch nor a web framework; parts are loaded when a guard is built.
"""

from guard._version import __version__
from guard.api import Guard
from guard.config import Settings, load_settings
from guard.errors import GuardError
from guard.types import Policy, Verdict, Video

__all__ = ["Guard", "GuardError", "Policy", "Settings", "Verdict", "Video", "__version__", "load_settings"]
