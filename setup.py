"""Build the compiled modules; everything else is in pyproject.toml.

Environment switches, all off by default:

    RCMGR_SANITIZE=address,undefined   compile and link with these sanitizers
    RCMGR_COVERAGE=1                   trace lines of the .pyx files, and keep the generated C
    RCMGR_DEBUG=1                      no optimisation, debug information, assertions
    RCMGR_GENERATED=1                  use the C that an earlier run has generated, without Cython
    RCMGR_LTO=1                        optimise the library of a wheel as a whole, for releases
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

# compiled for speed: each decision runs through them. The others are compiled for size.
HOT = {
    "admission.admission", "admission.manager_base", "counting.bucket_table",
    "counting.connection_tracker", "counting.denials", "counting.groups", "counting.scope",
    "counting.token_bucket", "peers", "_cython",
}

# Cython's own functions, compiled once. In a wheel, its library holds all other modules too.
SHARED = "_cython"

SANITIZE = os.environ.get("RCMGR_SANITIZE", "")
COVERAGE = os.environ.get("RCMGR_COVERAGE") == "1"
DEBUG = os.environ.get("RCMGR_DEBUG") == "1"
GENERATED = os.environ.get("RCMGR_GENERATED") == "1"
WERROR = os.environ.get("RCMGR_WERROR") == "1"

LTO: list[str] = []
if os.environ.get("RCMGR_LTO") == "1":  # setuptools always asks it of Microsoft's compiler
    LTO = ["-flto" if sys.platform == "darwin" else "-flto=auto"]
    if sys.platform == "linux":
        # Per cent. The most useful calls come first: later ones only add bytes.
        LTO += ["--param=inline-unit-growth=20"]

# Without these copies and gaps, -O3 code is smaller. Decisions take about as many instructions.
SMALLER = [
    "-fno-ipa-cp-clone", "-fno-tree-vectorize", "-fno-split-loops", "-fno-unswitch-loops",
    "-fno-peel-loops", "-falign-jumps=1", "-falign-labels=1", "-falign-loops=1",
]

# A wheel compresses the strings of all modules together, better than Cython those of each.
MACROS = [("CYTHON_COMPRESS_STRINGS", "0")]
TRACING = [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]

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

    def run(self) -> None:
        # setuptools clears `inplace` while it builds
        self.is_for_wheel = not (self.inplace or self.editable_mode)
        super().run()

    def build_extensions(self) -> None:
        for extension in self.extensions:
            is_hot = extension.name.removeprefix("rcmgr.") in HOT
            if self.compiler.compiler_type == "msvc":
                extension.extra_compile_args += msvc_flags(is_hot)
            else:
                extension.extra_compile_args += gcc_flags(is_hot)
                extension.extra_link_args += gcc_link_flags()
        if self.is_for_wheel:
            self.put_into_one()
        super().build_extensions()

    def put_into_one(self) -> None:
        """Compile all modules, and link them as one: see src/rcmgr/_library.py."""
        [shared] = [each for each in self.extensions if each.name == f"rcmgr.{SHARED}"]
        self.extensions.remove(shared)
        for each in self.extensions:
            shared.extra_objects += self.compiler.compile(
                each.sources, output_dir=self.build_temp, include_dirs=each.include_dirs,
                macros=each.define_macros, extra_postargs=each.extra_compile_args,
                depends=each.depends)
        self.extensions = [shared]


def msvc_flags(is_hot: bool) -> list[str]:
    level = "/Od" if DEBUG else "/O2" if is_hot else "/O1"
    return ["/std:c11", level, *(["/WX"] if WERROR else [])]


def gcc_flags(is_hot: bool) -> list[str]:
    flags = ["-std=c11", "-fvisibility=hidden", *LTO]
    flags += ["-O0", "-g3", "-UNDEBUG"] if DEBUG else ["-O3" if is_hot else "-Os", "-g0"]
    if sys.platform == "linux":
        flags += ["-fno-plt", *SMALLER]
        if not (DEBUG or SANITIZE):
            # C needs no tables to unwind its stack, and they are a twelfth of a wheel
            flags += ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]
    if SANITIZE:
        # CPython builds with -fwrapv, which would hide overflow from UBSan
        flags += [f"-fsanitize={SANITIZE}", "-fno-wrapv", "-fstrict-overflow", "-g"]
    if WERROR:
        flags += ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    flags += ["-Wno-unused-function"]  # Cython's decompressor of strings
    return flags


def gcc_link_flags() -> list[str]:
    strip = ["-Wl,-s"] if sys.platform == "linux" and not DEBUG else []
    return [f"-fsanitize={SANITIZE}"] if SANITIZE else [*LTO, *strip]


def extensions() -> list[Extension]:
    file = "build/cython/src/rcmgr/{}.c" if GENERATED else "src/rcmgr/{}.pyx"
    modules = {name: [file.format(name.replace(".", "/")), *c] for name, c in MODULES.items()}
    modules[SHARED] = [file.format(SHARED) if GENERATED else "src/rcmgr/_cython.c"]
    listed = [Extension(f"rcmgr.{name}", sources, include_dirs=["ext"],
                        define_macros=MACROS + (TRACING if COVERAGE else []))
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
