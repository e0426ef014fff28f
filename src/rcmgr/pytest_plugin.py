"""The public name of `rcmgr.libp2p.pytest_plugin`: pytest -p rcmgr.pytest_plugin."""

from rcmgr.libp2p.pytest_plugin import *  # noqa: F403
