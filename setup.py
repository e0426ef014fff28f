"""Build the compiled modules; everything else is in pyproject.toml.

Environment switches, all off by default:

    RCMGR_SANITIZE=address,undefined   compile and link with these sanitizers
    RCMGR_COVERAGE=1                   trace lines of the .pyx files, and keep the generated C
    RCMGR_DEBUG=1                      no optimisation, debug information, assertions
    RCMGR_GENERATED=1                  use the C that an earlier run has generated, without Cython
    RCMGR_WERROR=1                     warnings of the C compiler are errors, for CI
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# sys.platform -> the suffix of its C files in ext/; others get *_unknown.c
SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}

# module of rcmgr -> the C files it is linked with (headers of ext/ need no entry)
MODULES: dict[str, list[str]] = {
    "admission.admission": [],
    "admission.door": [],
    "admission.eviction": [],
    "admission.manager_base": [],
    "admission.room": [],
    "admission.task_connections": [],
    "counting.bucket_table": [],
    "counting.connection_tracker": [],
    "counting.denials": [],
    "counting.event_ring": [],
    "counting.memory_stats": [f"ext/rss_{SYSTEMS.get(sys.platform, 'unknown')}.c"],
    "counting.groups": [],
    "counting.pacing": [],
    "counting.prefix_table": [],
    "counting.leases": [],
    "counting.reading": [],
    "counting.scope": [],
    "counting.token_bucket": [],
    "peers": [],
}

# compiled for size: they run for a full node, wait for the system, or write reports
SMALL = {
    "rcmgr.admission.door", "rcmgr.admission.eviction", "rcmgr.admission.room",
    "rcmgr.admission.task_connections", "rcmgr.counting.event_ring", "rcmgr.counting.reading",
}

# Cython's own functions, compiled once. A copy in each module would make wheels 9 % larger.
SHARED = "_cython"

SANITIZE = os.environ.get("RCMGR_SANITIZE", "")
COVERAGE = os.environ.get("RCMGR_COVERAGE") == "1"
DEBUG = os.environ.get("RCMGR_DEBUG") == "1"
GENERATED = os.environ.get("RCMGR_GENERATED") == "1"
WERROR = os.environ.get("RCMGR_WERROR") == "1"

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "embedsignature.format": "clinic",
    "freethreading_compatible": True,
    "auto_pickle": False,
    "autotestdict": False,
    "linetrace": COVERAGE,
}


class BuildExt(build_ext):
    """Choose the flags once the compiler is known."""

    def build_extensions(self) -> None:
        for extension in self.extensions:
            if self.compiler.compiler_type == "msvc":
                extension.extra_compile_args += msvc_flags()
            else:
                level = "-Os" if extension.name in SMALL else "-O3"
                extension.extra_compile_args += gcc_flags(level)
                extension.extra_link_args += gcc_link_flags()
        super().build_extensions()


def msvc_flags() -> list[str]:
    return ["/std:c11", "/Od" if DEBUG else "/O2", *(["/WX"] if WERROR else [])]


def gcc_flags(level: str) -> list[str]:
    flags = ["-std=c11", "-fvisibility=hidden"]
    flags += ["-O0", "-g3", "-UNDEBUG"] if DEBUG else [level, "-g0"]
    if SANITIZE:
        # CPython builds with -fwrapv, which would hide overflow from UBSan
        flags += [f"-fsanitize={SANITIZE}", "-fno-wrapv", "-fstrict-overflow", "-g"]
    if WERROR:
        flags += ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    return flags


def gcc_link_flags() -> list[str]:
    strip = ["-Wl,-s"] if sys.platform == "linux" and not DEBUG else []
    return [f"-fsanitize={SANITIZE}"] if SANITIZE else strip


def extensions() -> list[Extension]:
    tracing = [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
    file = "build/cython/src/rcmgr/{}.c" if GENERATED else "src/rcmgr/{}.pyx"
    modules = {name: [file.format(name.replace(".", "/")), *c] for name, c in MODULES.items()}
    modules[SHARED] = [file.format(SHARED) if GENERATED else "src/rcmgr/_cython.c"]
    listed = [Extension(f"rcmgr.{name}", sources, include_dirs=["ext"],
                        define_macros=tracing if COVERAGE else [])
              for name, sources in modules.items()]
    if GENERATED:
        return listed
    from Cython.Build import cythonize

    return cythonize(
        listed, shared_utility_qualified_name=f"rcmgr.{SHARED}",
        shared_utility_features_disabled=["MemoryView"],  # no module uses it
        compiler_directives=DIRECTIVES,
        include_path=["src"], build_dir=None if COVERAGE else "build/cython",
        annotate="--annotate" in sys.argv,
    )


setup(
    # the headers that the .pxd files name travel with them
    packages=[*find_packages("src"), "rcmgr.include"],
    package_dir={"": "src", "rcmgr.include": "ext"},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExt},
)
