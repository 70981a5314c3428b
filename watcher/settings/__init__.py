"""The settings of one installation: one YAML file, checked as a whole, with overrides from the environment.

    settings = load_settings("settings.yaml")

`models` says which keys there are and `load` how they are read; nothing else of this package is for others.
"""

from watcher.settings.errors import Problem, SettingsError
from watcher.settings.layout import Layout
from watcher.settings.load import load_settings
from watcher.settings.models import (
    CommandSettings,
    ContainerSettings,
    HeartbeatSettings,
    HistorySettings,
    HooksSettings,
    LocksMode,
    LogLevel,
    LogSettings,
    MetricsSettings,
    OwnerSettings,
    RecoverySettings,
    RetrySettings,
    Settings,
    SnapshotSettings,
    TreeSettings,
    VerifyMode,
    WatchBackend,
    WatchSettings,
)
from watcher.settings.templates import expand
from watcher.settings.units import format_bytes, format_seconds, parse_bytes, parse_seconds

__all__ = [
    "CommandSettings",
    "ContainerSettings",
    "HeartbeatSettings",
    "HistorySettings",
    "HooksSettings",
    "Layout",
    "LocksMode",
    "LogLevel",
    "LogSettings",
    "MetricsSettings",
    "OwnerSettings",
    "Problem",
    "RecoverySettings",
    "RetrySettings",
    "Settings",
    "SettingsError",
    "SnapshotSettings",
    "TreeSettings",
    "VerifyMode",
    "WatchBackend",
    "WatchSettings",
    "expand",
    "format_bytes",
    "format_seconds",
    "load_settings",
    "parse_bytes",
    "parse_seconds",
]
