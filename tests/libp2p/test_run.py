"""`rcmgr run` and `python -m rcmgr.libp2p.run` run a program with our resource manager.

The first becomes the second. So most tests run the second, in a fork.
"""

from __future__ import annotations

import subprocess
import textwrap
import zipfile
from pathlib import Path

import pytest
from programs import run, run_fork

SCRIPT = """
import sys
from libp2p import new_host
manager = new_host().get_network()._resource_manager
print(type(manager).__mro__[1].__module__, sys.argv[1:], __name__)
if "fail" in sys.argv:
    sys.exit(7)
if "raise" in sys.argv:
    raise KeyError("spoiled")
"""


def go(
    *arguments: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return run_fork("-m", "rcmgr.libp2p.run", *arguments, cwd=cwd, **env)


@pytest.mark.parametrize("program", [["program.py"], ["-m", "program"]], ids=" ".join)
def test_an_unmodified_program_gets_our_manager(tmp_path: Path, program: list[str]) -> None:
    (tmp_path / "program.py").write_text(SCRIPT)
    done = run("-m", "rcmgr", "run", *program, "--option", "fail", "-h", cwd=tmp_path)
    assert done.stdout == "rcmgr.manager ['--option', 'fail', '-h'] __main__\n", done.stderr
    assert done.returncode == 7
    assert go(*program, cwd=tmp_path).returncode == 0
    raised = go(*program, "raise", cwd=tmp_path)
    assert raised.returncode == 1
    assert raised.stderr.endswith("KeyError: 'spoiled'\n")


@pytest.mark.parametrize(("arguments", "reason"), [
    ([], "nothing to run"), (["-m"], "nothing to run"), (["absent.py"], "can't open file")])
def test_nothing_to_run(arguments: list[str], reason: str) -> None:
    done = go(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Programs that cannot be run, and some that can."""
    for name, text in {
        "wrong.py": "x = 1\nif x\n", "nul.py": "a\0b", "latin.py": "x = 'caf\xe9'",
        "empty/nothing.txt": "", "package/__init__.py": "", "broken/__init__.py": "import absent",
        "broken/__main__.py": "", "imports.py": "import absent", "bad.py": "import wrong",
        "main/__init__.py": "", "main/__main__.py": "print('main', __name__)",
        "folder/__main__.py": "print('folder', __name__)", "data.txt": "this is no program",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", "print('archive', __name__)")
    return tmp_path


@pytest.mark.parametrize(("program", "reason"), [
    ("absent.py", "can't open file 'absent.py': no such file"),
    ("wrong.py", "wrong.py, line 2: expected ':'"),
    ("nul.py", "nul"),
    ("latin.py", "latin.py"),
    ("data.txt", "data.txt, line 1: invalid syntax"),
    ("empty", "'empty' is a folder without __main__.py: it cannot be run"),
    (".", "'.' is a folder without __main__.py: it cannot be run"),
    ("-m absent", "no module named 'absent'"),
    ("-m absent.part", "no module named 'absent'"),
    ("-m package.absent", "no module named 'package.absent'"),
    ("-m wrong", "wrong.py, line 2: expected ':'"),
    ("-m package", "package is a package without __main__.py: it cannot be run"),
    ("-m empty", "empty is a package without __main__.py: it cannot be run"),
    ("-m main.py", "did you mean -m main, or main.py?"),
    ("-m math", "math is no Python source: it cannot be run"),
    ("-m .main", "no module named '.main'"),
])
def test_what_cannot_be_run_is_an_error_in_one_line(
    programs: Path, program: str, reason: str
) -> None:
    done = go(*program.split(), cwd=programs)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rcmgr run: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


@pytest.mark.parametrize("program", [
    "-m broken", "-m broken.part", "-m wrong.part", "-m imports", "imports.py", "bad.py"])
def test_an_error_of_the_program_keeps_its_traceback(programs: Path, program: str) -> None:
    done = go(*program.split(), cwd=programs)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "rcmgr run: " not in done.stderr


@pytest.mark.parametrize("program", ["-m main", "folder", "archive.zip"])
def test_folders_packages_and_archives_run(programs: Path, program: str) -> None:
    done = go(*program.split(), cwd=programs)
    assert done.stdout == f"{program.split()[-1].removesuffix('.zip')} __main__\n", done.stderr


def test_hosts_of_a_program_are_hardened(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import rcmgr\nfrom libp2p import new_host\nswarm = new_host().get_network()\n"
        "manager = swarm._resource_manager\n"
        "print(swarm._stream_semaphore, isinstance(manager, rcmgr.ResourceManager))")
    done = go("--harden", "program.py", cwd=tmp_path)
    assert done.stdout == "None True\n", done.stderr


@pytest.mark.parametrize("module", ["libp2p.rcmgr", "rcmgr"])
def test_managers_of_a_program_refuse_nothing_in_a_dry_run(tmp_path: Path, module: str) -> None:
    (tmp_path / "program.py").write_text(
        f"from {module} import ResourceLimits, ResourceManager\n"
        "manager = ResourceManager(ResourceLimits(max_connections=0))\n"
        "print(manager.open_connection() is not None, manager.would_deny.total)\n")
    done = go("--dry-run", "program.py", cwd=tmp_path)
    assert done.stdout == "True 1\n"


def test_the_status_of_a_program_is_served(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent("""
        import subprocess, sys
        from libp2p import new_host
        hosts = [new_host(), new_host()]
        kept = hosts[0].get_network()._resource_manager.open_connection(b"peer")
        subprocess.run([sys.executable, "-m", "rcmgr", "status"])
    """))
    command = ["--status", "program.py"]
    done = go(*command, cwd=tmp_path, RCMGR_STATUS=str(tmp_path / "s"))
    assert "connections 1, peers 1, streams 0" in done.stdout, done.stderr
    assert done.stderr == ""
    (tmp_path / "d").mkdir()
    done = go(*command, cwd=tmp_path, RCMGR_STATUS=str(tmp_path / "d"))
    assert done.stderr.startswith("rcmgr run: no status: ")


def test_a_wrong_limits_file_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("[System]\nCons = 7\n")
    (tmp_path / "program.py").touch()
    for name, reason in (("limits.toml", "System.Cons"), ("absent.toml", "No such file")):
        done = go("program.py", cwd=tmp_path, RCMGR_LIMITS=name)
        assert done.returncode == 2
        assert done.stderr.startswith(f"rcmgr run: RCMGR_LIMITS={name}: ")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_program_is_never_replaced_by_its_record(tmp_path: Path, how: str) -> None:
    program = tmp_path / "prog.py"
    program.write_text("print('ran')\n")
    if how == "option":
        done = run("-m", "rcmgr", "run", "--record", "prog.py", "prog.py", cwd=tmp_path)
    else:
        done = go("prog.py", cwd=tmp_path, RCMGR_RECORD=str(program))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "prog.py: this file is no record" in done.stderr
    assert program.read_text() == "print('ran')\n"
