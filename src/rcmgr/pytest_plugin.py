"""pytest -p rcmgr.pytest_plugin; see `rcmgr.libp2p.pytest_plugin`."""

from rcmgr.libp2p.pytest_plugin import *  # noqa: F403
