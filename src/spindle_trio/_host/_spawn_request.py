"""Checks a spawn's options before a process exists, and encodes its first frame.

Payload and metadata are encoded once, when they are checked. Later changes to the caller's own values have no effect:
the request keeps the payload as bytes, and decodes the metadata again from theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from spindle_trio._errors import PayloadError, UserRequiredError
from spindle_trio._model import OMITTED, JsonValue, Limits, SpawnOptions
from spindle_trio._protocol._control_frames import encode_init
from spindle_trio._protocol._json_codec import EncodedValue, write_body
from spindle_trio._protocol._payload import PayloadWalk, check_payload, check_text
from spindle_trio._supervision._process_record import Identity, ProcessConfig

if TYPE_CHECKING:
    from spindle_trio._host._settings import HostSettings
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio.abc import ResolvedEntry, SandboxRules


class _InitWalk(PayloadWalk):
    """Says why there are no bytes in a process's first frame."""

    __slots__ = ()

    instead_of_bytes = "them in a message or a call once the process is ready, which says whether it takes bytes"


@attrs.frozen
class SpawnRequest:
    """A spawn whose options have been checked."""

    entry: ResolvedEntry
    kind: str
    key: str | None
    user_id: str
    payload: object
    """An `EncodedValue`, or `OMITTED`."""
    metadata: dict[str, JsonValue] | None
    encoded_metadata: object
    """The same as an `EncodedValue`."""
    options: SpawnOptions
    """The other options, without payload and metadata."""
    folder: Path | None = None
    """The working directory instead of the worker's root."""
    resource_limits: ResourceLimits | None = None
    """The limits of the spawn, joined with the host's."""
    sandbox: SandboxRules | None = None
    """What the process may reach."""
    command: Command | None = None
    """What runs instead of an entry."""

    def identity(self, process_id: str) -> Identity:
        """Make the identity of the requested process."""
        return Identity(process_id, self.entry.entry, self.kind, self.key, self.user_id, self.metadata)

    def encode_init(self, process_id: str, limits: Limits) -> bytes:
        """Write the first frame of the requested process."""
        return encode_init(
            process_id=process_id,
            entry=self.entry.entry,
            kind=self.kind,
            key=self.key,
            user_id=self.user_id,
            payload=self.payload,
            metadata=self.encoded_metadata,
            heartbeat_timeout=self.options.heartbeat_timeout,
            limits=limits,
        )


class _Spawning(Protocol):
    """The worker, for the check of its spawns."""

    @property
    def identifier(self) -> str:
        """Its name."""

    @property
    def root(self) -> Path:
        """The folder of its entries."""

    @property
    def user_id(self) -> str | None:
        """The user of the worker; `None` for an operator-scoped one."""


class SpawnChecker:
    """Checks the spawns of one worker: everything except the key."""

    def __init__(self, worker: _Spawning, settings: HostSettings, config: ProcessConfig, *, distant: bool) -> None:
        """Begin.

        Args:
            worker: the worker that spawns.
            settings: the host's: its launcher accepts or refuses entries.
            config: the configuration of the worker's processes.
            distant: whether the worker is at the far end of a channel, and may only narrow what the host allows.
        """
        self._worker = worker
        self._settings = settings
        self._launcher = settings.launcher
        self._config = config
        self._resource_limits = settings.resource_limits
        self._sandbox = settings.sandbox
        self._distant = distant

    def check(self, options: SpawnOptions) -> SpawnRequest:
        """Check options, and encode payload and metadata.

        Raises:
            EntryError: the entry may not or cannot be run, or not in the folder.
            PayloadError: `payload` or `metadata` is not JSON-safe, or over a limit, or a name is over its limit.
            UserRequiredError: `user_id` is missing or blank.
            ResourceLimitError: a resource limit is above the host's, or cannot be held here.
            SandboxError: the sandbox cannot be had, or a path of it is wrong, or it is weaker than it may be.
        """
        worker, limits = self._worker, self._config.limits
        command, folder_name = None, options.folder
        if isinstance(options.entry, str):
            entry = self._launcher.resolve(options.entry.strip(), worker.root)
        else:
            from spindle_trio._host._commands import resolve_command  # only for those who use it

            command, entry = resolve_command(options, self._settings, worker.root, distant=self._distant)
            folder_name = folder_name if command.folder is None else command.folder
        check_text("entry", entry.entry, limits.entry_bytes)
        folder = None if folder_name is None else self._launcher.resolve_folder(folder_name, worker.root)
        kind = (options.kind or "").strip() or entry.entry
        key = (options.key or "").strip() or None
        check_text("kind", kind, None if kind == entry.entry else limits.kind_bytes)
        check_text("key", key, limits.key_bytes)
        user_id = worker.user_id if worker.user_id is not None else (options.user_id or "").strip()
        if not user_id:
            raise UserRequiredError(
                f"worker {worker.identifier!r} serves more than one user:"
                f" spawn {entry.entry!r} with a non-blank user_id"
            )
        check_text("user_id", user_id, None)
        resource_limits = None
        if options.resource_limits is not None or self._resource_limits is not None:
            from spindle_trio._host._resource_bounds import limits_of_spawn  # most hosts have no limits

            resource_limits = limits_of_spawn(options.resource_limits, self._resource_limits, self._launcher)
        sandbox = None
        if options.sandbox is not None or self._sandbox is not None:
            from spindle_trio._host._sandboxes import rules_of_spawn  # most hosts have none

            sandbox = rules_of_spawn(
                options.sandbox, self._sandbox, self._launcher, entry, worker.root, command, distant=self._distant
            )
        if options.payload is OMITTED and options.metadata is None:
            return SpawnRequest(
                entry, kind, key, user_id, OMITTED, None, None, options, folder, resource_limits, sandbox, command
            )
        payload = OMITTED if options.payload is OMITTED else self._encode(options.payload, "payload")
        metadata, encoded_metadata = self._copy_metadata(options.metadata)
        rest = attrs.evolve(options, payload=OMITTED, metadata=None)
        return SpawnRequest(
            entry,
            kind,
            key,
            user_id,
            payload,
            metadata,
            encoded_metadata,
            rest,
            folder,
            resource_limits,
            sandbox,
            command,
        )

    def _copy_metadata(self, given: object) -> tuple[dict[str, JsonValue] | None, EncodedValue | None]:
        if given is None:
            return None, None
        if type(given) is not dict:
            raise PayloadError(f"metadata: {type(given).__name__} is not a JSON object")
        encoded = self._encode(given, "metadata")
        copy = self._config.reader.read(bytes(encoded))
        assert isinstance(copy, dict), "what was written as an object is read as one"
        return copy, encoded

    def _encode(self, value: object, name: str) -> EncodedValue:
        check_payload(value, self._config.bounds, name, _InitWalk)
        return EncodedValue(write_body(value, self._config.limits.frame_bytes, name))
