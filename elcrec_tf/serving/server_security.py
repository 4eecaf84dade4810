"""Encryption and the bearer token of the local server."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from elcrec_tf.errors import UserError
from elcrec_tf.serving.server_options import ServerOptions

_HEALTH = "/grpc.health.v1.Health/"


def server_credentials(options: ServerOptions) -> Any:
    """gRPC's credentials for the certificate of the options; None without one.

    Raises:
        UserError: for a file that cannot be read, or holds no certificate or not its key.
    """
    if options.tls_cert is None or options.tls_key is None:
        return None
    cert, key = _read(options.tls_cert), _read(options.tls_key)
    try:
        # gRPC says nothing but "invalid" of a bad pair, and that only when the port is opened.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls_cert, options.tls_key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"{options.tls_cert}, {options.tls_key}: are not a PEM certificate with its unencrypted key ({error})") from None
    authorities = None if options.tls_client_ca is None else _read(options.tls_client_ca)
    if authorities is not None:
        try:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise UserError(f"{options.tls_client_ca}: holds no PEM certificates ({error})") from None
    return grpc.ssl_server_credentials([(key, cert)], authorities, require_client_auth=authorities is not None)


def read_token(path: Path) -> bytes:
    """The token in a file, without the whitespace around it.

    Raises:
        UserError: for a file that cannot be read or holds no token.
    """
    token = _read(path).strip()
    if not token or len(token.split()) > 1:
        raise UserError(f"{path}: should hold one token, without spaces in it")
    return token


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a readable file") from None


class TokenCheck(grpc.ServerInterceptor):
    """Refuses requests without `authorization: Bearer <token>`, before their content is read. The health service stays open.

    Args:
        token: the token.
    """

    def __init__(self, token: bytes) -> None:
        self._expected = b"Bearer " + token
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        if handler_call_details.method.startswith(_HEALTH) or self._allows(handler_call_details.invocation_metadata):
            return continuation(handler_call_details)
        return self._refusal

    def _allows(self, metadata: Any) -> bool:
        given = [value for key, value in metadata if key == "authorization"]
        if len(given) != 1:
            return False
        value = given[0] if isinstance(given[0], bytes) else given[0].encode()
        return hmac.compare_digest(value, self._expected)


def _refuse(_: bytes, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the request has no valid bearer token")
