"""video-guard: self-hosted video moderation.

Importing this package loads neither torch nor a web framework; parts are loaded when they are first asked for.
"""

from guard._version import __version__

__all__ = ["__version__"]
