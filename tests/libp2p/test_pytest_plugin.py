"""The pytest plugin gives a project's own tests our resource manager."""

from __future__ import annotations

import textwrap
from pathlib import Path

from programs import run


def run_pytest(folder: Path, code: str) -> str:
    """Run tests with the plugin, and return what pytest printed."""
    (folder / "test_theirs.py").write_text(textwrap.dedent(code))
    done = run("-m", "pytest", "-q", "-p", "rcmgr.pytest_plugin", "-p", "no:cacheprovider",
               "test_theirs.py", cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_all_managers_are_ours(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, """
        from libp2p import new_host
        from libp2p.rcmgr import ResourceManager, new_resource_manager
        def test_managers():
            managers = [ResourceManager(), new_resource_manager(),
                        new_host().get_network()._resource_manager]
            assert {type(each).__mro__[1].__module__ for each in managers} == {"rcmgr.manager"}
    """)
    assert "rcmgr: 3 resource managers were made, all of them rcmgr's" in output


def test_a_manager_of_libp2p_is_reported(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(  # pytest imports it before the plugin installs ours
        "from libp2p.rcmgr import ResourceManager\nkept = [ResourceManager]")
    output = run_pytest(tmp_path, """
        from conftest import kept
        from libp2p.rcmgr import ResourceManager
        def test_managers():
            ResourceManager()
            kept[0]()
    """)
    assert "rcmgr: 2 resource managers were made, 1 of them rcmgr's" in output
