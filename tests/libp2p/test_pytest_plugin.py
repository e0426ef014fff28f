"""The pytest plugin gives a project's own tests our resource manager."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest
from programs import run_fork


def pytest_with_ours(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin, and with no other but pytest-xdist."""
    return run_fork(
        "-m", "pytest", "-q", "-p", "xdist.plugin", "-p", "rcmgr.pytest_plugin",
        "-p", "no:cacheprovider", *arguments, cwd=folder, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def run_pytest(folder: Path, code: str, *arguments: str) -> str:
    """Run tests that must pass, and return what pytest printed."""
    (folder / "test_theirs.py").write_text(textwrap.dedent(code))
    done = pytest_with_ours(folder, "test_theirs.py", *arguments)
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


@pytest.mark.parametrize(("arguments", "hardened"), [((), False), (("--rcmgr-harden",), True)])
def test_hosts_are_hardened_on_demand(
    tmp_path: Path, arguments: tuple[str, ...], hardened: bool
) -> None:
    run_pytest(tmp_path, f"""
        from libp2p import new_host
        def test_host():
            host = new_host()
            assert hasattr(host.get_network(), "_rcmgr_hardening") is {hardened}
    """, *arguments)


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


MANAGERS = """
    import pytest
    from libp2p.rcmgr import ResourceManager
    @pytest.mark.parametrize("number", range(8))
    def test_manager(number):
        ResourceManager()
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_managers_of_all_workers_are_counted(tmp_path: Path, workers: str) -> None:
    output = run_pytest(tmp_path, MANAGERS, "-n", workers)
    assert output.count("rcmgr: 8 resource managers were made, all of them rcmgr's\n") == 1
    assert output.count("rcmgr:") == 1


def test_a_worker_that_crashes_is_reported(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(textwrap.dedent(MANAGERS) + textwrap.dedent("""
        def test_crash():
            import os
            os._exit(3)
    """))
    done = pytest_with_ours(tmp_path, "-n", "2", "--max-worker-restart=0", "test_theirs.py")
    assert "resource managers were made, all of them rcmgr's; 1 workers crashed" in done.stdout


SHADOWING = {
    "tests/rcmgr/__init__.py": "",
    "tests/rcmgr/conftest.py": """
        import pytest
        @pytest.fixture
        def manager():
            from libp2p.rcmgr import ResourceManager
            return ResourceManager()
    """,
    "tests/rcmgr/helpers.py": "NUMBER = 7",
    "tests/rcmgr/test_theirs.py": """
        import rcmgr
        from rcmgr.helpers import NUMBER
        def test_manager(manager):
            assert type(manager).__mro__[1].__module__ == "rcmgr.manager"
            assert NUMBER == 7
            assert rcmgr.TokenBucket(1, 1.0).try_consume()
    """,
    "tests/rcmgr/limits/__init__.py": "",
    "tests/rcmgr/limits/test_limits.py": """
        from rcmgr.limits.states import ConnectionLimits
        def test_limits(manager):
            assert manager.connection_limits == manager.connection_limits
            assert ConnectionLimits().max_pending_inbound is None
    """,
}


@pytest.mark.parametrize("arguments", [
    ["tests"], ["tests/rcmgr/test_theirs.py", "tests/rcmgr/limits"], ["tests/rcmgr", "-n", "1"],
], ids=" ".join)
def test_a_package_of_tests_with_our_name(tmp_path: Path, arguments: list[str]) -> None:
    for name, code in SHADOWING.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(code))
    done = pytest_with_ours(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "rcmgr: 2 resource managers were made, all of them rcmgr's" in done.stdout
    told = f"rcmgr: {tmp_path / 'tests' / 'rcmgr'} has the name of this package"
    assert told in done.stdout


def test_a_module_that_no_package_has_is_missing(tmp_path: Path) -> None:
    run_pytest(tmp_path, """
        import pytest
        def test_missing():
            with pytest.raises(ModuleNotFoundError, match="No module named 'rcmgr.nothing'"):
                import rcmgr.nothing
    """)
