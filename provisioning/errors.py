"""Everything that can go wrong while a federation is brought up.

ProvisioningError
├── LaboratoryError          a file of the laboratory is missing, or is not what this package wrote
├── StepError                an earlier step has not been done
└── UnexpectedMachineError   a machine runs, and it is not the one that its kit is for

A command line that cannot be carried out is a `policies.errors.UsageError`; evidence that does not verify is an
`attestation.errors.AttestationError`.
"""

from __future__ import annotations

from policies.errors import CloisterError


class ProvisioningError(CloisterError):
    """A federation could not be brought up."""

    code = "provisioning"


class LaboratoryError(ProvisioningError):
    """A file of the laboratory is missing, or is not what this package wrote."""

    code = "provisioning.laboratory"


class StepError(ProvisioningError):
    """An earlier step has not been done."""

    code = "provisioning.step"


class UnexpectedMachineError(ProvisioningError):
    """A machine runs, and it is not the one that its kit is for: nothing is signed for it."""

    code = "provisioning.machine"
