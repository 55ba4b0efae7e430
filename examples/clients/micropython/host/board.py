"""The board around the client: what MicroPython's WebAssembly port lacks, lent by the host through `js.bridge`.

A socket module, the flash file system, `os.urandom`, and AES blocks for `cryptolib`; bytes cross as hex. `host.mjs`
runs this file before the client.
"""

import binascii
import os
import sys

import js

bridge = js.bridge


def _bytes(text):
    return binascii.unhexlify(text)


def _hex(octets):
    return binascii.hexlify(octets).decode()


class _Socket:
    def __init__(self, *_):
        self._id, self._blocking = None, True

    def connect(self, address):
        self._id = bridge.connect(address[0], address[1])
        if self._id < 0:
            raise OSError(111)

    def setblocking(self, blocking):
        self._blocking = blocking

    def settimeout(self, seconds):
        self._blocking = seconds != 0

    def write(self, octets, length=None):
        octets = octets.encode() if isinstance(octets, str) else octets
        if not bridge.write(self._id, _hex(octets if length is None else octets[:length])):
            raise OSError(104)

    def read(self, count):
        """As on a board: None where it would block, empty at the end of the connection."""
        got = b""
        while len(got) < count:
            found = bridge.read(self._id, count - len(got), self._blocking)
            if found == "none":
                return got or None
            if found == "":
                break
            got += _bytes(found)
        return got

    def close(self):
        bridge.close(self._id)


class _File:
    def __init__(self, path, mode):
        self._path, self._writes, self._text = path, "w" in mode, ""
        if not self._writes:
            found = bridge.load(path)
            if found == "none":
                raise OSError(2)
            self._text = _bytes(found).decode()

    def read(self):
        return self._text

    def write(self, text):
        self._text += text

    def close(self):
        if self._writes:
            bridge.save(self._path, _hex(self._text.encode()))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()


class _Flash:
    def mount(self, readonly, mkfs):
        pass

    def open(self, path, mode):
        return _File(path, mode)

    def rename(self, old, new):
        bridge.rename(old, new)


class _Module:
    pass


def _module(name, **members):
    module = sys.modules.get(name) or _Module()
    for member, value in members.items():
        setattr(module, member, value)
    sys.modules[name] = module


class _Aes:
    def __init__(self, key, mode):
        self._key, self._mode = _hex(key), mode

    def encrypt(self, octets):
        return _bytes(bridge.encrypt(self._key, self._mode, _hex(octets)))


_os = _Module()
for _name in dir(os):
    setattr(_os, _name, getattr(os, _name))
_os.urandom = lambda count: _bytes(bridge.random(count))
sys.modules["os"] = _os
_module("socket", socket=_Socket, getaddrinfo=lambda host, port: [(2, 1, 0, "", (host, port))])
_module("cryptolib", aes=_Aes)
os.mount(_Flash(), "/flash")
