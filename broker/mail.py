"""Activation e-mails over SMTP (RFC 5321), by aiosmtplib.

1. The header fields hold what an operator wrote: `EmailMessage` refuses line ends in them, and the body is plain text.
2. With a login the connection is encrypted, or nothing is sent: STARTTLS is demanded, never merely tried.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Literal

import aiosmtplib

from provisioner.mails import Letter, Undeliverable

_SUBJECT = "Activation code for {name}"
_BODY = """\
Hello,

the device {name} is ready to be activated.

  client id        {client_id}
  activation code  {key}

Enter the code where the device asks for it. It works once, and until the device has
its own credential. Keep it to yourself: whoever has it can activate a device in your name.
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A mail server. `login` is user name and password."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    sender: str
    timeout: float
    login: tuple[str, str] | None = None
    tls: ssl.SSLContext | None = None


class SmtpPostman:
    """See `Postman`; one connection a letter."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def send(self, letter: Letter) -> None:
        """See `Postman`."""
        server = self._server
        username, password = server.login or (None, None)
        try:
            await aiosmtplib.send(
                _message(letter, server.sender),
                hostname=server.host,
                port=server.port,
                use_tls=server.security == "tls",
                start_tls=server.security == "starttls",
                username=username,
                password=password,
                timeout=server.timeout,
                tls_context=server.tls,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            raise _trouble(max(codes, default=500)) from None
        except aiosmtplib.SMTPResponseException as error:
            raise _trouble(error.code) from None
        except aiosmtplib.SMTPException as error:
            raise OSError(type(error).__name__) from None


def _trouble(code: int) -> Exception:
    """A 5xx is for good (RFC 5321, section 4.2.1), but for a login: that is our own fault, and can be mended."""
    return Undeliverable(str(code)) if 500 <= code < 600 and code not in (530, 534, 535) else OSError(f"SMTP {code}")


def _message(letter: Letter, sender: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = letter.email
    message["Subject"] = _SUBJECT.format(name=letter.device_name)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].rstrip(">") or None)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_BODY.format(name=letter.device_name, client_id=letter.client_id, key=letter.activation_key))
    return message
