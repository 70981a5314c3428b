"""The settings: every key, its default and its bounds. INTERFACE.md promises them; settings.example.yaml explains them.

Durations are seconds, sizes are bytes, paths are absolute. A new section is a class here and a field of `Settings`:
the file, the environment and the messages follow from the models.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from watcher.names import printable
from watcher.settings import log_rules, places, values
from watcher.settings.errors import EMPTY, UnfitError
from watcher.settings.layout import Layout
from watcher.settings.section import Section
from watcher.settings.units import format_bytes, format_seconds

__all__ = [
    "CommandSettings",
    "ContainerSettings",
    "HeartbeatSettings",
    "HistorySettings",
    "HooksSettings",
    "LocksMode",
    "LogLevel",
    "LogSettings",
    "MetricsSettings",
    "OwnerSettings",
    "RecoverySettings",
    "RetrySettings",
    "Settings",
    "SnapshotSettings",
    "TreeSettings",
    "VerifyMode",
    "WatchBackend",
    "WatchSettings",
]

_PAGER = '[./page.sh, "{session}"]'
_MILLISECOND = 0.001
_MINUTE = 60.0
_HOUR = 3600.0
_DAY = 86400.0
_KIB, _MIB, _GIB, _TIB = 2**10, 2**20, 2**30, 2**40


class LocksMode(StrEnum):
    """What the writer's lock, or its absence, counts for."""

    AUTO = "auto"
    TRUST = "trust"
    OFF = "off"


class VerifyMode(StrEnum):
    """How a recovered database is looked at."""

    READ = "read"
    QUICK = "quick"
    FULL = "full"


class WatchBackend(StrEnum):
    """Where file events come from."""

    AUTO = "auto"
    NATIVE = "native"
    POLLING = "polling"


class LogLevel(StrEnum):
    """loguru's levels, by name."""

    TRACE = "TRACE"
    DEBUG = "DEBUG"
    INFO = "INFO"
    SUCCESS = "SUCCESS"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class TreeSettings(Section):
    """Which databases are ours."""

    root: Annotated[Path, places.path("the directory that holds the sessions")]
    layout: str | None = None
    databases: Annotated[tuple[Annotated[str, places.pattern()], ...], values.text_list('["outbound.db"]')] = ("*",)
    exclude: Annotated[tuple[Annotated[str, places.name_of_directory()], ...], values.text_list("[node_modules]")] = ()
    host_root: Annotated[Path, places.absolute_elsewhere()] | None = None

    @field_validator("layout", mode="plain")
    @classmethod
    def _layout_can_be_parsed(cls, value: object) -> str | None:
        if value is None:
            return None
        return Layout.parse(values.text_value(value, 'directories, such as "{agent_group}/{session}"')).text

    @field_validator("databases")
    @classmethod
    def _some_database(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise UnfitError('expected at least one shell pattern, such as ["outbound.db"], got an empty list')
        return value


class ContainerSettings(Section):
    """The owner is a container: which one."""

    engine: Annotated[str, places.engine()] = "docker"
    labels: Annotated[
        dict[
            Annotated[str, values.one_line(255)],
            Annotated[str, places.template("a text in quotes", may_be_empty=True)],
        ],
        values.mapping('{nanoclaw-session: "{session}"}'),
    ] = Field(default_factory=dict)
    name: (
        Annotated[str, places.template('a shell pattern on a container\'s name, such as "agent-{session}"')] | None
    ) = None
    mounts: Annotated[bool, values.flag()] = True
    ignore: Annotated[
        tuple[Annotated[str, places.template("the name of a container")], ...], values.text_list("[backup]")
    ] = ()
    timeout: Annotated[float, values.duration(10 * _MILLISECOND, _MINUTE)] = 2.0

    @model_validator(mode="after")
    def _something_can_match(self) -> "ContainerSettings":
        if not (self.labels or self.name or self.mounts):
            raise UnfitError("expected labels, a name, or mounts: true; nothing here can match a container")
        return self


class HeartbeatSettings(Section):
    """The owner touches a file as long as it lives."""

    file: Annotated[str, places.beside_database(".heartbeat")] = ".heartbeat"
    max_age: Annotated[float, values.duration(100 * _MILLISECOND, _DAY)] = 10.0


class CommandSettings(Section):
    """A program answers whether the owner lives."""

    argv: Annotated[tuple[str, ...], places.argument_list()]
    timeout: Annotated[float, values.duration(10 * _MILLISECOND, 10 * _MINUTE)] = 5.0


class OwnerSettings(Section):
    """How to tell that the writer has exited."""

    locks: Annotated[LocksMode, values.choice(LocksMode)] = LocksMode.AUTO
    pid_file: Annotated[str, places.beside_database(".writer.pid")] | None = None
    container: ContainerSettings | None = None
    heartbeat: HeartbeatSettings | None = None
    command: CommandSettings | None = None


_MOST_OF_ONE = 64 * _MIB


class SnapshotSettings(Section):
    """The copy of database and journal that is made before a recovery."""

    keep: Annotated[int, values.whole_number(1, 1000)] = 3
    max_size: Annotated[int, values.size(1, 16 * _TIB)] = _MOST_OF_ONE
    max_total: Annotated[int, values.size(1, 1024 * _TIB), Field(validate_default=True)] = 2 * _GIB
    required: Annotated[bool, values.flag()] = False

    @field_validator("max_total")
    @classmethod
    def _one_fits(cls, value: int, info: ValidationInfo) -> int:
        one: int | None = info.data.get("max_size")
        if one is not None and one != _MOST_OF_ONE and value < one:  # the default gives way
            raise UnfitError(
                f"expected at least recovery.snapshot.max_size ({format_bytes(one)}), got {format_bytes(value)}",
                related=("recovery.snapshot.max_size",),
            )
        return value


class RetrySettings(Section):
    """The pauses after a recovery that failed, growing from the first to the last."""

    first: Annotated[float, values.duration(10 * _MILLISECOND, _HOUR)] = 1.0
    max: Annotated[float, values.duration(10 * _MILLISECOND, _DAY), Field(validate_default=True)] = 5 * _MINUTE

    @field_validator("max")
    @classmethod
    def _not_before_the_first(cls, value: float, info: ValidationInfo) -> float:
        first: float | None = info.data.get("first")
        if first is not None and value < first:
            raise UnfitError(
                f"expected at least recovery.retry.first ({format_seconds(first)}), got {format_seconds(value)}",
                related=("recovery.retry.first",),
            )
        return value


class RecoverySettings(Section):
    """How a database is recovered. `settle` is None for `auto`."""

    settle: Annotated[float | None, values.duration(0.0, _HOUR, automatic=True)] = None
    busy_timeout: Annotated[float, values.duration(0.0, 10 * _MINUTE)] = 2.0
    workers: Annotated[int, values.whole_number(1, 64)] = 4
    verify: Annotated[VerifyMode, values.choice(VerifyMode)] = VerifyMode.READ
    max_journal_size: Annotated[int, values.size(512, 16 * _TIB)] = _GIB
    snapshot: SnapshotSettings | None = Field(default_factory=SnapshotSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)


class WatchSettings(Section):
    """How journals are noticed, and when one that stays is told of."""

    backend: Annotated[WatchBackend, values.choice(WatchBackend)] = WatchBackend.AUTO
    sweep_interval: Annotated[float, values.duration(100 * _MILLISECOND, _DAY)] = 30.0
    hold_warning: Annotated[float, values.duration(0.0, 30 * _DAY)] = 60.0


class HistorySettings(Section):
    """How much of the past is kept."""

    keep: Annotated[int, values.whole_number(1, 10_000_000)] = 10_000
    max_age: Annotated[float, values.duration(1.0, 3650 * _DAY)] = 90 * _DAY


class HooksSettings(Section):
    """Programs that are told what became of a journal, each by one line of JSON on its standard input."""

    recovered: Annotated[tuple[str, ...], places.argument_list(_PAGER)] | None = None
    held: Annotated[tuple[str, ...], places.argument_list(_PAGER)] | None = None
    failed: Annotated[tuple[str, ...], places.argument_list(_PAGER)] | None = None
    corrupt: Annotated[tuple[str, ...], places.argument_list(_PAGER)] | None = None
    timeout: Annotated[float, values.duration(10 * _MILLISECOND, 10 * _MINUTE)] = 10.0


class LogSettings(Section):
    """The service's log. `json_lines` is the key `json`; rotation, retention and compression are loguru's."""

    level: Annotated[LogLevel, values.choice(LogLevel, str.upper)] = LogLevel.INFO
    file: Annotated[Path, places.log_file()] | None = None
    json_lines: Annotated[bool, values.flag()] = Field(default=False, alias="json")
    rotation: Annotated[str | int | None, log_rules.rotation()] = "10 MB"
    retention: Annotated[str | int | None, log_rules.retention()] = 10
    compression: Annotated[str | None, log_rules.compression()] = None


class MetricsSettings(Section):
    """Where the state is served: metrics for Prometheus, whether we live and are well, and the page for a person."""

    listen: Annotated[str, places.listen_address()] | None = None
    page: Annotated[bool, values.flag()] = True
    hosts: Annotated[tuple[Annotated[str, places.host_name()], ...], values.text_list("[watcher.lan]")] = ()


class Settings(Section):
    """One installation. `file` is the settings file's own absolute path, not a key of it."""

    file: Path = Field(exclude=True)
    # Both defaults come from the file's directory, below: a default_factory would see it only where nothing is wrong.
    instance: Annotated[str, values.one_line(64)] = ""
    state_dir: Annotated[Path, places.outside_tree("a directory")] = Path(".journal-watcher")
    tree: TreeSettings
    owner: OwnerSettings = Field(default_factory=OwnerSettings)
    recovery: RecoverySettings = Field(default_factory=RecoverySettings)
    watch: WatchSettings = Field(default_factory=WatchSettings)
    history: HistorySettings = Field(default_factory=HistorySettings)
    hooks: HooksSettings = Field(default_factory=HooksSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)

    @model_validator(mode="before")
    @classmethod
    def _defaults_from_the_directory(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("file"), Path):
            return data
        directory: Path = data["file"].parent
        defaults = {
            "instance": printable(directory.name)[:64].strip() or "/",
            "state_dir": directory / ".journal-watcher",
        }
        return {**data, **{key: value for key, value in defaults.items() if data.get(key, EMPTY) is EMPTY}}
