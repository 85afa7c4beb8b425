from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CpuEvidence(_message.Message):
    __slots__ = ("kind", "report", "endorsements")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENTS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    report: bytes
    endorsements: bytes
    def __init__(self, kind: _Optional[str] = ..., report: _Optional[bytes] = ..., endorsements: _Optional[bytes] = ...) -> None: ...

class DeviceEvidence(_message.Message):
    __slots__ = ("device_class", "vendor", "report", "chain")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    VENDOR_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    vendor: str
    report: bytes
    chain: bytes
    def __init__(self, device_class: _Optional[str] = ..., vendor: _Optional[str] = ..., report: _Optional[bytes] = ..., chain: _Optional[bytes] = ...) -> None: ...

class Attestation(_message.Message):
    __slots__ = ("core", "cpu", "devices", "init_data", "grant", "csr")
    CORE_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    INIT_DATA_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    core: bytes
    cpu: CpuEvidence
    devices: _containers.RepeatedCompositeFieldContainer[DeviceEvidence]
    init_data: bytes
    grant: bytes
    csr: bytes
    def __init__(self, core: _Optional[bytes] = ..., cpu: _Optional[_Union[CpuEvidence, _Mapping]] = ..., devices: _Optional[_Iterable[_Union[DeviceEvidence, _Mapping]]] = ..., init_data: _Optional[bytes] = ..., grant: _Optional[bytes] = ..., csr: _Optional[bytes] = ...) -> None: ...

class ServiceEvidenceRequest(_message.Message):
    __slots__ = ("client_nonce",)
    CLIENT_NONCE_FIELD_NUMBER: _ClassVar[int]
    client_nonce: bytes
    def __init__(self, client_nonce: _Optional[bytes] = ...) -> None: ...

class ServiceEvidence(_message.Message):
    __slots__ = ("core", "cpu", "init_data", "tls_certificate", "ca_certificate")
    CORE_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    INIT_DATA_FIELD_NUMBER: _ClassVar[int]
    TLS_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    core: bytes
    cpu: CpuEvidence
    init_data: bytes
    tls_certificate: bytes
    ca_certificate: bytes
    def __init__(self, core: _Optional[bytes] = ..., cpu: _Optional[_Union[CpuEvidence, _Mapping]] = ..., init_data: _Optional[bytes] = ..., tls_certificate: _Optional[bytes] = ..., ca_certificate: _Optional[bytes] = ...) -> None: ...

class InstallRootRequest(_message.Message):
    __slots__ = ("root", "roster", "reference_values")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_VALUES_FIELD_NUMBER: _ClassVar[int]
    root: bytes
    roster: bytes
    reference_values: bytes
    def __init__(self, root: _Optional[bytes] = ..., roster: _Optional[bytes] = ..., reference_values: _Optional[bytes] = ...) -> None: ...

class InstallRootReply(_message.Message):
    __slots__ = ("root_sha256",)
    ROOT_SHA256_FIELD_NUMBER: _ClassVar[int]
    root_sha256: bytes
    def __init__(self, root_sha256: _Optional[bytes] = ...) -> None: ...

class ChallengeRequest(_message.Message):
    __slots__ = ("protocol", "trust_domain", "node", "role", "client_random")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_RANDOM_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    trust_domain: str
    node: str
    role: str
    client_random: bytes
    def __init__(self, protocol: _Optional[str] = ..., trust_domain: _Optional[str] = ..., node: _Optional[str] = ..., role: _Optional[str] = ..., client_random: _Optional[bytes] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("challenge_id", "nonce", "ttl_seconds", "service_key_id", "revocation_epoch", "time")
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    challenge_id: bytes
    nonce: bytes
    ttl_seconds: int
    service_key_id: str
    revocation_epoch: int
    time: int
    def __init__(self, challenge_id: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., ttl_seconds: _Optional[int] = ..., service_key_id: _Optional[str] = ..., revocation_epoch: _Optional[int] = ..., time: _Optional[int] = ...) -> None: ...

class AttestRequest(_message.Message):
    __slots__ = ("challenge_id", "attestation")
    CHALLENGE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    challenge_id: bytes
    attestation: bytes
    def __init__(self, challenge_id: _Optional[bytes] = ..., attestation: _Optional[bytes] = ...) -> None: ...

class AttestReply(_message.Message):
    __slots__ = ("result", "certificate", "ca_certificate")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    result: bytes
    certificate: bytes
    ca_certificate: bytes
    def __init__(self, result: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., ca_certificate: _Optional[bytes] = ...) -> None: ...

class GetAttestationRequest(_message.Message):
    __slots__ = ("node", "jti")
    NODE_FIELD_NUMBER: _ClassVar[int]
    JTI_FIELD_NUMBER: _ClassVar[int]
    node: str
    jti: str
    def __init__(self, node: _Optional[str] = ..., jti: _Optional[str] = ...) -> None: ...

class ArchivedAttestation(_message.Message):
    __slots__ = ("attestation", "result", "certificate")
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    attestation: bytes
    result: bytes
    certificate: bytes
    def __init__(self, attestation: _Optional[bytes] = ..., result: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class ReleaseKeyRequest(_message.Message):
    __slots__ = ("release_id", "attest_jti", "key_id", "job", "approvals", "purpose")
    RELEASE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEST_JTI_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    release_id: bytes
    attest_jti: str
    key_id: str
    job: bytes
    approvals: _containers.RepeatedScalarFieldContainer[bytes]
    purpose: str
    def __init__(self, release_id: _Optional[bytes] = ..., attest_jti: _Optional[str] = ..., key_id: _Optional[str] = ..., job: _Optional[bytes] = ..., approvals: _Optional[_Iterable[bytes]] = ..., purpose: _Optional[str] = ...) -> None: ...

class ReleaseKeyReply(_message.Message):
    __slots__ = ("sealed_key", "version", "policy_sha256")
    SEALED_KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_SHA256_FIELD_NUMBER: _ClassVar[int]
    sealed_key: bytes
    version: int
    policy_sha256: bytes
    def __init__(self, sealed_key: _Optional[bytes] = ..., version: _Optional[int] = ..., policy_sha256: _Optional[bytes] = ...) -> None: ...

class DepositKeyRequest(_message.Message):
    __slots__ = ("key_id", "sealed_key", "policy", "job")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SEALED_KEY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    sealed_key: bytes
    policy: bytes
    job: bytes
    def __init__(self, key_id: _Optional[str] = ..., sealed_key: _Optional[bytes] = ..., policy: _Optional[bytes] = ..., job: _Optional[bytes] = ...) -> None: ...

class DepositKeyReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

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
