from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Greeting(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class ServerIdentity(_message.Message):
    __slots__ = ("attestation", "result", "certificate", "nonces")
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    NONCES_FIELD_NUMBER: _ClassVar[int]
    attestation: bytes
    result: bytes
    certificate: bytes
    nonces: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, attestation: _Optional[bytes] = ..., result: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., nonces: _Optional[_Iterable[bytes]] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("boot",)
    BOOT_FIELD_NUMBER: _ClassVar[int]
    boot: bytes
    def __init__(self, boot: _Optional[bytes] = ...) -> None: ...

class Instruction(_message.Message):
    __slots__ = ("offer", "start", "round_open", "step", "round_close", "end", "heartbeat")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ROUND_OPEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_CLOSE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    offer: JobOffer
    start: JobStart
    round_open: RoundOpen
    step: SumStep
    round_close: RoundClose
    end: JobEnd
    heartbeat: Heartbeat
    def __init__(self, offer: _Optional[_Union[JobOffer, _Mapping]] = ..., start: _Optional[_Union[JobStart, _Mapping]] = ..., round_open: _Optional[_Union[RoundOpen, _Mapping]] = ..., step: _Optional[_Union[SumStep, _Mapping]] = ..., round_close: _Optional[_Union[RoundClose, _Mapping]] = ..., end: _Optional[_Union[JobEnd, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JobOffer(_message.Message):
    __slots__ = ("job_id", "manifest")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    manifest: bytes
    def __init__(self, job_id: _Optional[str] = ..., manifest: _Optional[bytes] = ...) -> None: ...

class JobStart(_message.Message):
    __slots__ = ("job_id", "approvals")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    approvals: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, job_id: _Optional[str] = ..., approvals: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RoundOpen(_message.Message):
    __slots__ = ("job_id", "round", "attempt", "model_blob", "model_blob_size", "cohort")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_BLOB_FIELD_NUMBER: _ClassVar[int]
    MODEL_BLOB_SIZE_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    round: int
    attempt: int
    model_blob: bytes
    model_blob_size: int
    cohort: _containers.RepeatedCompositeFieldContainer[CohortMember]
    def __init__(self, job_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., model_blob: _Optional[bytes] = ..., model_blob_size: _Optional[int] = ..., cohort: _Optional[_Iterable[_Union[CohortMember, _Mapping]]] = ...) -> None: ...

class CohortMember(_message.Message):
    __slots__ = ("site", "boot", "jti")
    SITE_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    JTI_FIELD_NUMBER: _ClassVar[int]
    site: str
    boot: bytes
    jti: str
    def __init__(self, site: _Optional[str] = ..., boot: _Optional[bytes] = ..., jti: _Optional[str] = ...) -> None: ...

class SumStep(_message.Message):
    __slots__ = ("job_id", "round", "attempt", "step", "messages", "sites")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    round: int
    attempt: int
    step: int
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    sites: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., step: _Optional[int] = ..., messages: _Optional[_Iterable[bytes]] = ..., sites: _Optional[_Iterable[str]] = ...) -> None: ...

class RoundClose(_message.Message):
    __slots__ = ("job_id", "round", "attempt", "outcome", "reason")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    round: int
    attempt: int
    outcome: str
    reason: str
    def __init__(self, job_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class JobEnd(_message.Message):
    __slots__ = ("job_id", "state", "reason")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: str
    reason: str
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SiteAnswer(_message.Message):
    __slots__ = ("job_id", "round", "attempt", "approval", "refusal", "ready", "advertise", "share", "masked", "consistency", "unmask", "failure")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ADVERTISE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    UNMASK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    round: int
    attempt: int
    approval: bytes
    refusal: Refusal
    ready: Ready
    advertise: bytes
    share: bytes
    masked: MaskedUpdate
    consistency: bytes
    unmask: bytes
    failure: Failure
    def __init__(self, job_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., approval: _Optional[bytes] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., advertise: _Optional[bytes] = ..., share: _Optional[bytes] = ..., masked: _Optional[_Union[MaskedUpdate, _Mapping]] = ..., consistency: _Optional[bytes] = ..., unmask: _Optional[bytes] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reasons",)
    REASONS_FIELD_NUMBER: _ClassVar[int]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("isolation_missing",)
    ISOLATION_MISSING_FIELD_NUMBER: _ClassVar[int]
    isolation_missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, isolation_missing: _Optional[_Iterable[str]] = ...) -> None: ...

class MaskedUpdate(_message.Message):
    __slots__ = ("message", "metrics", "clipped", "seconds")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CLIPPED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    message: bytes
    metrics: _containers.ScalarMap[str, float]
    clipped: int
    seconds: float
    def __init__(self, message: _Optional[bytes] = ..., metrics: _Optional[_Mapping[str, float]] = ..., clipped: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "hint", "phase")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    phase: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., phase: _Optional[str] = ...) -> None: ...

class AnswerReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("job_id", "sha256", "offset")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    sha256: bytes
    offset: int
    def __init__(self, job_id: _Optional[str] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadChunk(_message.Message):
    __slots__ = ("job_id", "round", "attempt", "offset", "data")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    round: int
    attempt: int
    offset: int
    data: bytes
    def __init__(self, job_id: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...

class WatchLogRequest(_message.Message):
    __slots__ = ("old_size",)
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    old_size: int
    def __init__(self, old_size: _Optional[int] = ...) -> None: ...

class LogHead(_message.Message):
    __slots__ = ("checkpoint", "consistency")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    consistency: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, checkpoint: _Optional[bytes] = ..., consistency: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CosignRequest(_message.Message):
    __slots__ = ("size", "cosignature")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    size: int
    cosignature: bytes
    def __init__(self, size: _Optional[int] = ..., cosignature: _Optional[bytes] = ...) -> None: ...

class CosignReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SubmitPart(_message.Message):
    __slots__ = ("manifest", "code", "model")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    code: bytes
    model: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., code: _Optional[bytes] = ..., model: _Optional[bytes] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class JobEvent(_message.Message):
    __slots__ = ("number", "time_ms", "kind", "state", "text", "round", "rounds", "sites", "metrics", "bytes_up", "bytes_down", "seconds", "code", "hint")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: SiteMetrics
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[SiteMetrics, _Mapping]] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    number: int
    time_ms: int
    kind: str
    state: str
    text: str
    round: int
    rounds: int
    sites: _containers.RepeatedScalarFieldContainer[str]
    metrics: _containers.MessageMap[str, SiteMetrics]
    bytes_up: int
    bytes_down: int
    seconds: float
    code: str
    hint: str
    def __init__(self, number: _Optional[int] = ..., time_ms: _Optional[int] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., text: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., sites: _Optional[_Iterable[str]] = ..., metrics: _Optional[_Mapping[str, SiteMetrics]] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., seconds: _Optional[float] = ..., code: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class SiteMetrics(_message.Message):
    __slots__ = ("by_site", "mean")
    class BySiteEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BY_SITE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    by_site: _containers.ScalarMap[str, float]
    mean: float
    def __init__(self, by_site: _Optional[_Mapping[str, float]] = ..., mean: _Optional[float] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class AbortReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobSummary]
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobSummary, _Mapping]]] = ...) -> None: ...

class JobSummary(_message.Message):
    __slots__ = ("job_id", "state", "round", "rounds", "reason")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: str
    round: int
    rounds: int
    reason: str
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class FetchModelRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...
