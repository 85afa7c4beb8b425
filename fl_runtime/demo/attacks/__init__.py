"""Ten attacks on a running federation, each of which must be refused, with a reason of its own."""

from fl_runtime.demo.attacks.record import tamper_with_audit
from fl_runtime.demo.attacks.suite import run_attacks

__all__ = ["run_attacks", "tamper_with_audit"]
