# Generated from _async/signin.py by scripts/generate-sync: edit that, not this.
"""Who an HTTP client is: access tokens, renewed before they end, shared through the stored sign-ins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final
from uuid import UUID

from supabase_auth import SyncGoTrueClient
from supabase_auth.errors import AuthApiError, AuthError, AuthRetryableError

from knowledge_persistence._waiting import Lock, run
from knowledge_persistence.credentials import Credential
from knowledge_persistence.errors import (
    APIError,
    AuthenticationError,
    RateLimitError,
    ServerError,
    TransportError,
)
from knowledge_persistence.models import Identity

if TYPE_CHECKING:
    import httpx
    from supabase_auth.types import Session

    from knowledge_persistence.credentials import CredentialStore

#: Seconds before its end at which an access token is renewed.
_MARGIN: Final = 60


class SignIn:
    """Keep a user signed in.

    Args:
        url: the deployment's origin.
        api_key: its publishable key.
        http_client: carries the requests.
        access_token: a token that was obtained elsewhere; it is used as long as it lasts.
        refresh_token: exchanged for an access token.
        email: with the password, for signing in.
        password: see email.
        store: where sign-ins are stored, when this one is one of them.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        http_client: httpx.Client,
        *,
        access_token: str | None = None,
        refresh_token: str | None = None,
        email: str | None = None,
        password: str | None = None,
        store: CredentialStore | None = None,
    ) -> None:
        self._url = url
        # A client of its own: the one inside supabase.Client sends the last access token along with the
        # request for the next, and an expired one is then refused for being expired.
        self._auth = SyncGoTrueClient(
            url=f"{url}/auth/v1",
            headers={"apikey": api_key},
            auto_refresh_token=False,
            persist_session=False,
            http_client=http_client,
        )
        self._token = access_token
        self._expires_at: int | None = None
        self._refresh_token = refresh_token
        self._email = email
        self._password = password
        self._store = store
        self._lock = Lock()

    def token(self) -> str:
        """Return an access token that is good for some time yet.

        Raises:
            AuthenticationError: nobody is signed in, or the sign-in has ended.
            TransportError: the deployment can't be reached.
        """
        if self._token is None or (
            self._expires_at is not None and self._expires_at - _MARGIN <= time.time() and self._can_renew()
        ):
            self.renew(self._token)
        if self._token is None:
            raise _not_signed_in(self._url)
        return self._token

    def _can_renew(self) -> bool:
        return self._store is not None or self._refresh_token is not None or self._password is not None

    def renew(self, rejected: str | None) -> bool:
        """Get another access token than this one, and say whether there is one.

        Args:
            rejected: the token that is no good (any more).

        Raises:
            AuthenticationError: the deployment ended the sign-in.
            TransportError: the deployment can't be reached.
        """
        with self._lock:
            if self._token is not None and self._token != rejected:
                return True  # another task was faster
            if self._store is not None:
                return self._renew_stored(self._store, rejected)
            if self._refresh_token is not None:
                try:
                    self._take(self._refresh(self._refresh_token))
                except AuthenticationError:
                    if self._password is None:
                        raise
                else:
                    return True
            if self._email is not None and self._password is not None:
                self._take(self._sign_in(self._email, self._password))
                return True
            return False

    def _renew_stored(self, store: CredentialStore, rejected: str | None) -> bool:
        lock = store.locked()
        run(lock.__enter__)
        try:
            stored = store.load(self._url)
            if stored is None:
                raise _not_signed_in(self._url)
            if stored.access_token != rejected and stored.expires_at - _MARGIN > time.time():
                self._token, self._expires_at = stored.access_token, stored.expires_at
                return True
            try:
                session = self._refresh(stored.refresh_token)
            except AuthenticationError:
                if stored.email is None or stored.password is None:
                    raise
                session = self._sign_in(stored.email, stored.password)
            store.save(self._url, to_credential(session, email=stored.email, password=stored.password))
            self._take(session)
            return True
        finally:
            lock.__exit__(None, None, None)

    def _take(self, session: Session) -> None:
        self._token = session.access_token
        self._refresh_token = session.refresh_token
        self._expires_at = _expiry(session)

    def _refresh(self, refresh_token: str) -> Session:
        try:
            answer = self._auth.refresh_session(refresh_token)
        except AuthError as error:
            raise auth_error(error, self._url) from error
        if answer.session is None:
            raise _not_signed_in(self._url)
        return answer.session

    def _sign_in(self, email: str, password: str) -> Session:
        try:
            answer = self._auth.sign_in_with_password({"email": email, "password": password})
        except AuthError as error:
            raise auth_error(error, self._url) from error
        if answer.session is None:
            raise _not_signed_in(self._url)
        return answer.session

    def sign_in(self, email: str, password: str) -> Credential:
        """Sign in and return what is to be stored.

        Raises:
            AuthenticationError: address or password is wrong.
            TransportError: the deployment can't be reached.
        """
        session = self._sign_in(email, password)
        self._take(session)
        return to_credential(session, email=email)

    def sign_up(self, email: str, password: str) -> Credential | None:
        """Make a user, and return the sign-in; None when the deployment wants the address confirmed first.

        Raises:
            APIError: the deployment refuses.
            TransportError: the deployment can't be reached.
        """
        try:
            answer = self._auth.sign_up({"email": email, "password": password})
        except AuthError as error:
            raise auth_error(error, self._url) from error
        if answer.session is None:
            return None
        self._take(answer.session)
        return to_credential(answer.session, email=email)

    def sign_out(self) -> None:
        """End this sign-in at the deployment; other sign-ins of the same user stay."""
        token = self.token()
        try:
            self._auth.admin.sign_out(token, "local")
        except AuthError as error:
            raise auth_error(error, self._url) from error

    def identity(self) -> Identity:
        """Ask the deployment who the token belongs to."""
        for attempt in range(2):
            token = self.token()
            try:
                answer = self._auth.get_user(token)
            except AuthError as error:
                failure = auth_error(error, self._url)
                if attempt == 0 and isinstance(failure, AuthenticationError) and self.renew(token):
                    continue
                raise failure from error
            if answer is None:
                break
            return Identity(
                role="authenticated", user_id=UUID(answer.user.id), email=answer.user.email or None
            )
        raise _not_signed_in(self._url)


def to_credential(session: Session, *, email: str | None = None, password: str | None = None) -> Credential:
    """Make what is stored of what the server gave."""
    return Credential(
        user_id=session.user.id,
        refresh_token=session.refresh_token,
        access_token=session.access_token,
        expires_at=_expiry(session),
        email=email or session.user.email,
        password=password,
    )


def _expiry(session: Session) -> int:
    # By this machine's clock, which it is compared with: the deployment's may be hours away.
    return int(time.time()) + session.expires_in


def _not_signed_in(url: str) -> AuthenticationError:
    return AuthenticationError(
        f"nobody is signed in at {url}", code="PT401", status=401, hint="`kp login` signs in"
    )


def auth_error(error: AuthError, url: str) -> APIError | TransportError:
    """Make the package's exception of the auth client's."""
    if isinstance(error, AuthRetryableError):
        if error.status == 0:
            return TransportError(
                f"{url} can't be reached: {error.message or type(error.__cause__).__name__}",
                may_have_arrived=True,
            )
        return TransportError(f"{url} answered {error.status}: {error.message}", may_have_arrived=True)
    status = error.status if isinstance(error, AuthApiError) else 401
    code = error.code or f"PT{status}"
    if status == 429:  # noqa: PLR2004
        return RateLimitError(error.message, code=code, status=status, hint="try again later")
    if status >= 500:  # noqa: PLR2004
        return ServerError(error.message, code=code, status=status)
    return AuthenticationError(error.message, code=code, status=status, hint="`kp login` signs in")
