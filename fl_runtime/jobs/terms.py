"""What a manifest says of model and sum, as types: the manifest itself carries them as plain JSON.

`policies` knows nothing of tensors and sums, so whoever relies on these parts of a manifest reads them through here.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl_runtime.arrays import Layout
from fl_runtime.errors import JobRefusedError
from fl_runtime.secure_aggregation.parameters import Parameters
from policies.job_manifest import JobManifest

MODEL_SEGMENT = "model"  # the one segment of a vector that averaging has: all float tensors, one after the other


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerms:
    """The model's tensors and how updates of it are summed; they fit each other and the job's sites."""

    layout: Layout
    parameters: Parameters


def terms_of(manifest: JobManifest) -> JobTerms:
    """Read layout and parameters from a manifest and compare them with each other.

    Raises:
        MalformedDocumentError: The layout does not follow its format.
        ParametersRefusedError: The parameters do not follow theirs, hide too little or overflow.
        JobRefusedError: They do not fit each other, the layout's digest or the number of sites.
    """
    layout = Layout.parse(manifest.model_layout())
    parameters = Parameters.parse(manifest.aggregation_parameters())
    lengths = {segment.name: segment.length for segment in parameters.segments}
    for what, found, expected in (
        ("digest of the layout", layout.digest.hex(), manifest.model.layout_sha256.hex()),
        ("sites in a sum", parameters.n_max, len(manifest.sites)),
        ("segments", lengths, {MODEL_SEGMENT: layout.vector_length}),
    ):
        if found != expected:
            raise JobRefusedError(f"job {manifest.job}: {what} is {found}, expected {expected}")
    return JobTerms(layout=layout, parameters=parameters)
