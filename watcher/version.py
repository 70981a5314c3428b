"""The version of the package that runs."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["VERSION"]

try:
    VERSION = version("journal-watcher")
except PackageNotFoundError:  # run from a source tree that nobody has installed
    VERSION = "0+unknown"
