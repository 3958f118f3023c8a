"""Builds the library with cargo and puts it into the wheel.

FANWIRE_RING_LIBRARY names a libfanwire_ring.so that is built already.
"""

import json
import os
import pathlib
import shutil
import subprocess

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    from wheel.bdist_wheel import bdist_wheel

CRATE = pathlib.Path(__file__).resolve().parent.parent


def library():
    given = os.environ.get("FANWIRE_RING_LIBRARY")
    if given:
        return pathlib.Path(given)
    command = ["cargo", "build", "--release", "--message-format=json", "--manifest-path", CRATE / "Cargo.toml"]
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    for line in built.stdout.splitlines():
        for name in json.loads(line).get("filenames", []):
            if name.endswith("libfanwire_ring.so"):
                return pathlib.Path(name)
    raise SystemExit("cargo has built no libfanwire_ring.so")


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        target = pathlib.Path(self.build_lib) / "fanwire_ring"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(library(), target / "libfanwire_ring.so")


class PlatformWheel(bdist_wheel):
    """For this platform and any Python: the library is loaded by ctypes."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class WithLibrary(Distribution):
    def has_ext_modules(self):
        return True


setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel}, distclass=WithLibrary)
