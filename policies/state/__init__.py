"""What a program keeps: one SQLite file, one writer, fenced against a second, migrated forwards only."""

from policies.state.errors import CorruptStoreError, StoreInUseError, StoreUnavailableError
from policies.state.store import Clock, Row, Store, Transaction

__all__ = ["Clock", "CorruptStoreError", "Row", "Store", "StoreInUseError", "StoreUnavailableError", "Transaction"]
