"""What can go wrong with a state store, beside the errors that `policies.errors` names.

StateError
├── FencedError               another process has taken over this store
├── NewerSchemaError          written by a newer release
├── StoreInUseError           another process holds its lease
├── CorruptStoreError         the file is damaged, or is no store
└── StoreUnavailableError     the disk is full or fails, or the file is locked; nothing was changed
"""

from __future__ import annotations

from policies.errors import StateError


class StoreInUseError(StateError):
    """Another process holds its lease."""

    code = "state.in_use"
    retryable = True


class CorruptStoreError(StateError):
    """The file is damaged, or is no store."""

    code = "state.corrupt"


class StoreUnavailableError(StateError):
    """The disk is full or fails, or the file is locked; nothing was changed."""

    code = "state.unavailable"
    retryable = True
