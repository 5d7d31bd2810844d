"""Who calls: tokens from a file, or the client certificates of mutual TLS, and what each may do.

The tokens' file has a line for each token, `NAME:ROLE:TOKEN` or `NAME:ROLE:sha256:HEX` (the SHA-256 of the token's
UTF-8); the role is `client` or `admin`. Blank lines and lines that begin with `#` do not count. A name may stand on
several lines: while a token is replaced both are good.
"""

import hashlib
import hmac
import re
import stat
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lazyneuron.engine.documents import written_beside
from lazyneuron.engine.errors import ConfigurationError, PermissionDeniedError, UnauthenticatedError
from lazyneuron.server.config import AuthConfig

__all__ = ["FAILURES", "Authenticator", "Role", "Subject", "add_line", "current_subject", "line_for", "presented"]

Role = Literal["client", "admin"]
Failure = Literal["missing", "malformed", "unknown", "forbidden"]
FAILURES: tuple[Failure, ...] = ("missing", "malformed", "unknown", "forbidden")
"""Why a call is not let in, as the metric's label has it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_TOKEN = re.compile(r"[!-~]{1,512}")  # what a header can carry, in one word
_SHORTEST = 16  # characters; the hash is a fast one, so a token must be beyond guessing
_BEARER = re.compile(r"bearer +(.*)", re.IGNORECASE)
_LARGEST_FILE = 2**20
_EXPECTED = "expected NAME:ROLE:TOKEN or NAME:ROLE:sha256:HEX, as `lazyneuron token NAME` makes them"


@dataclass(frozen=True)
class Subject:
    """Somebody who was let in.

    Attributes
    ----------
    name
        Of the token's line, or the certificate's common name.
    role
        `admin` may also list, load and unload models, and use reflection.
    """

    name: str
    role: Role


@dataclass(frozen=True)
class _Entry:
    digest: bytes
    subject: Subject


current_subject: ContextVar[Subject | None] = ContextVar("subject", default=None)
"""Who makes the call that is being handled; None where authentication is off."""


class Authenticator:
    """Tells callers by what they present.

    Parameters
    ----------
    config
        The settings.
    certificates
        Whether clients have shown certificates that the server trusts.

    Raises
    ------
    ConfigurationError
        If the tokens' file cannot be read.
    """

    def __init__(self, config: AuthConfig, *, certificates: bool = False) -> None:
        self._config = config
        self._certificates = certificates
        self._entries = _read(config.tokens_file) if config.tokens_file is not None else ()

    @property
    def on(self) -> bool:
        """Whether calls must authenticate."""
        return self.by_token or self._certificates

    @property
    def by_token(self) -> bool:
        """Whether a token tells who calls; otherwise a certificate does."""
        return self._config.tokens_file is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to watch."""
        return (self._config.tokens_file,) if self._config.tokens_file is not None else ()

    def reload(self) -> bool:
        """Read the tokens again; return whether they are others than before.

        Raises
        ------
        ConfigurationError
            If the file cannot be read; the tokens that were there stay good.
        """
        if self._config.tokens_file is None:
            return False
        before, self._entries = self._entries, _read(self._config.tokens_file)
        return before != self._entries

    def by_credentials(self, headers: Mapping[str, str]) -> Subject:
        """Return who presents a token, from `authorization: Bearer TOKEN` or `x-api-key: TOKEN`.

        Parameters
        ----------
        headers
            Of the call, with names in lower case.

        Raises
        ------
        UnauthenticatedError
            If there is none, or none that is known.
        """
        token = presented(headers)
        digest = hashlib.sha256(token.encode()).digest()
        found: Subject | None = None
        for entry in self._entries:  # all of them, however early one fits: the time tells nothing
            if hmac.compare_digest(entry.digest, digest):
                found = entry.subject
        if found is None:
            raise UnauthenticatedError(
                "the token is not one that this server knows; ask its operator for one", "unknown"
            )
        return found

    def by_certificate(self, common_name: str | None) -> Subject:
        """Return whose certificate it is; TLS has verified it.

        Raises
        ------
        UnauthenticatedError
            If there is none.
        """
        if not common_name:
            raise UnauthenticatedError(
                "no client certificate with a common name was shown; this server asks for one", "missing"
            )
        return Subject(common_name, "admin" if common_name in self._config.admin_certificates else "client")

    @staticmethod
    def require_admin(subject: Subject, what: str) -> None:
        """Refuse whoever is no admin.

        Raises
        ------
        PermissionDeniedError
            Naming the subject, its role and what was asked for.
        """
        if subject.role != "admin":
            raise PermissionDeniedError(f"{what}: {subject.name} has the role {subject.role}; expected admin")


def presented(headers: Mapping[str, str]) -> str:
    """Return the token in a call's headers.

    Raises
    ------
    UnauthenticatedError
        If there is none, or it is no token.
    """
    authorization, key = headers.get("authorization"), headers.get("x-api-key")
    if authorization is None and key is None:
        raise UnauthenticatedError(
            "no token; expected the header `authorization: Bearer TOKEN` or `x-api-key: TOKEN`", "missing"
        )
    if authorization is not None:
        bearer = _BEARER.fullmatch(authorization.strip())
        if bearer is None:
            raise UnauthenticatedError("the header authorization is malformed; expected `Bearer TOKEN`", "malformed")
        key = bearer[1]
    assert key is not None
    if _TOKEN.fullmatch(key.strip()) is None:
        raise UnauthenticatedError("the token is malformed; expected one word of ASCII", "malformed")
    return key.strip()


def line_for(name: str, role: Role, token: str) -> str:
    """Return the line of the tokens' file that lets a token in, without the token itself.

    Raises
    ------
    ConfigurationError
        If the name is none.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"name: got {name!r:.80}; expected up to 64 letters, digits and ._@-")
    return f"{name}:{role}:sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def add_line(file: Path, line: str) -> None:
    """Add a line to a tokens' file, or begin one that only its owner may read. A server never sees half a line.

    Raises
    ------
    ConfigurationError
        If the file has something else in it, or cannot be written.
    """
    before = ""
    if file.exists():
        _read(file)  # or a server would refuse the whole
        before = file.read_text(encoding="utf-8")
    try:
        mode = stat.S_IMODE(file.stat().st_mode) if before else 0o600
        with written_beside(file, mode) as beside:
            end = "" if before.endswith("\n") or not before else "\n"
            beside.write_text(f"{before}{end}{line}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--file: {file} cannot be written ({error.strerror})") from None


def _read(file: Path) -> tuple[_Entry, ...]:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise ConfigurationError(f"auth.tokens_file: {file} is larger than {_LARGEST_FILE} bytes; {_EXPECTED}")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"auth.tokens_file: {file} cannot be read ({error.strerror}); {_EXPECTED}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"auth.tokens_file: {file} is not UTF-8; {_EXPECTED}") from None
    entries = [
        _entry(line.strip(), f"auth.tokens_file: {file}, line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not entries:
        raise ConfigurationError(f"auth.tokens_file: {file} has no token; {_EXPECTED}")
    if len({entry.digest for entry in entries}) < len(entries):
        raise ConfigurationError(f"auth.tokens_file: {file} has one token on two lines; expected each once")
    return tuple(entries)


def _entry(line: str, where: str) -> _Entry:
    """Read a line. No message repeats what may be a token."""
    name, _, rest = line.partition(":")
    role, _, secret = rest.partition(":")
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"{where}: no name before the first colon; {_EXPECTED}")
    roles: dict[str, Role] = {"client": "client", "admin": "admin"}
    if role not in roles:
        raise ConfigurationError(f"{where}: {name} has no role, which is client or admin; {_EXPECTED}")
    subject = Subject(name, roles[role])
    if secret.startswith("sha256:"):
        hashed = _HASH.fullmatch(secret)
        if hashed is None:
            raise ConfigurationError(f"{where}: what follows sha256: is not 64 hexadecimal digits; {_EXPECTED}")
        return _Entry(bytes.fromhex(hashed[1]), subject)
    if _TOKEN.fullmatch(secret) is None or len(secret) < _SHORTEST:
        raise ConfigurationError(
            f"{where}: the token is not one word of {_SHORTEST} to 512 ASCII characters; {_EXPECTED}"
        )
    return _Entry(hashlib.sha256(secret.encode()).digest(), subject)
