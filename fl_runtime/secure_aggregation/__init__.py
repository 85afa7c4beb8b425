"""Sums over sites that nobody can look into: encode, mask, add, unmask. Pure; see docs for who could still see what."""

from fl_runtime.secure_aggregation.cohort import Cohort, Member
from fl_runtime.secure_aggregation.context import RoundContext
from fl_runtime.secure_aggregation.encoding import Means, decode, encode
from fl_runtime.secure_aggregation.memory import RoundMemory
from fl_runtime.secure_aggregation.parameters import Limits, Parameters, Segment, threshold_for
from fl_runtime.secure_aggregation.ring import accumulate, new_vector, vector_digest
from fl_runtime.secure_aggregation.server import ServerRound, Transcript
from fl_runtime.secure_aggregation.site import SiteRound
from fl_runtime.secure_aggregation.stages import ClippedUpdate, MaskedUpdate, Sum, Update

__all__ = [
    "ClippedUpdate",
    "Cohort",
    "Limits",
    "MaskedUpdate",
    "Means",
    "Member",
    "Parameters",
    "RoundContext",
    "RoundMemory",
    "Segment",
    "ServerRound",
    "SiteRound",
    "Sum",
    "Transcript",
    "Update",
    "accumulate",
    "decode",
    "encode",
    "new_vector",
    "threshold_for",
    "vector_digest",
]
