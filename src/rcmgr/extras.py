"""Say which extra of rcmgr to install where an optional package is missing."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["require"]


def require(package: str, user: str, extra: str) -> None:
    """Check that `package` is installed, without importing it.

    ImportError: it is not. The message is one line: it names `user`, which needs the package, and
    the command that installs `extra`.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:  # any folder of that name has a spec without an origin
        raise ImportError(f"{user} needs {package}: pip install 'rcmgr[{extra}]'", name=package)
