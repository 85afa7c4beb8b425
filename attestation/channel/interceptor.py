"""At the edge of a server: every call is identified, every typed error becomes a status, nothing else leaks out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import grpc

from attestation.channel.caller import Administrator, AttestedPeer, Caller, CallerPolicy, Holder, holder_of
from attestation.channel.status import status_of, trailer_of
from attestation.errors import UnattestedPeerError
from policies.errors import CloisterError, DeniedError
from policies.root import Root

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 10.0
MOST_HOLDERS = 4096  # certificates that are remembered

_caller: ContextVar[Caller] = ContextVar("caller")


def attested_caller(*, role: str | None = None) -> AttestedPeer:
    """The attested node that makes the current call.

    Raises:
        UnattestedPeerError: It is not an attested node.
        DeniedError: It attested for another role.
    """
    caller = _caller.get()
    if not isinstance(caller, AttestedPeer):
        raise UnattestedPeerError(f"{caller.name} is an administrator, this call is for attested nodes")
    if role is not None and caller.result.role != role:
        raise DeniedError(f"{caller.name} attested as {caller.result.role}, this call is for a {role}")
    return caller


def administrator() -> Administrator:
    """The administrator who makes the current call.

    Raises:
        DeniedError: The caller is a node.
    """
    caller = _caller.get()
    if not isinstance(caller, Administrator):
        raise DeniedError(f"{caller.name} is a node, this call is for administrators")
    return caller


class Edge(grpc.aio.ServerInterceptor):
    """Identifies the caller of each call (where there is a policy) and translates errors."""

    def __init__(self, policy: Callable[[], CallerPolicy] | None, *, clock: Callable[[], datetime]) -> None:
        """Check callers against what `policy` returns; None for a port that anybody may call."""
        self._policy = policy
        self._clock = clock
        self._root: Root | None = None
        self._holders: dict[bytes, Holder] = {}  # by certificate; under `_root`

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401 - generic in gRPC
        """Wrap the handler of one method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        wrapped = self._streaming(inner) if handler.response_streaming else self._single(inner)
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _single(self, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def answer(request: Any, context: Any) -> Any:  # noqa: ANN401 - any message
            try:
                self._identify(context)
                return await inner(request, context)
            except CloisterError as error:
                return await _abort(context, error)
            except Exception as error:  # noqa: BLE001 - the edge of a program, as below
                return await _fail(context, error)

        return answer

    def _streaming(self, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - any message
            try:
                self._identify(context)
                checked = self._clock()
                async for item in inner(request, context):
                    if (self._clock() - checked).total_seconds() >= RECHECK_SECONDS:
                        self._identify(context)
                        checked = self._clock()
                    yield item
            except CloisterError as error:
                await _abort(context, error)
            except Exception as error:  # noqa: BLE001 - gRPC would tell the caller what it says, which may quote anything
                await _fail(context, error)

        return answers

    def _identify(self, context: Any) -> None:  # noqa: ANN401 - grpc is untyped here
        if self._policy is None:
            return
        certificates = context.auth_context().get("x509_pem_cert", [])
        if len(certificates) != 1:
            raise UnattestedPeerError("the caller presented no certificate")
        policy = self._policy()
        _caller.set(self._holder(certificates[0], policy.root).admit(policy, now=self._clock()))

    def _holder(self, certificate_pem: bytes, root: Root) -> Holder:
        """Verify a certificate once under one root: four signatures would be most of the cost of a small call."""
        if self._root is not root or len(self._holders) >= MOST_HOLDERS:
            self._root, self._holders = root, {}
        if certificate_pem not in self._holders:
            self._holders[certificate_pem] = holder_of(certificate_pem, root)
        return self._holders[certificate_pem]


async def _abort(context: Any, error: CloisterError) -> None:  # noqa: ANN401 - grpc is untyped here
    logger.info("call refused", extra={"code": error.code, "reason": error.message})
    await context.abort(status_of(error), error.message[:1000], trailer_of(error))


async def _fail(context: Any, error: Exception) -> None:  # noqa: ANN401 - grpc is untyped here
    logger.error("call failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "this program has failed; its own log says why")


def utc_now() -> datetime:
    """The system's clock, in UTC: handed to programs as their `clock`."""
    return datetime.now(UTC)
