"""The engines of the tests as a plugin: a module that wants them says `pytest_plugins = ["tests.engine_fixtures"]`."""

from tests.engines import docker_engine, engine, podman_engine, tree

__all__ = ["docker_engine", "engine", "podman_engine", "tree"]
