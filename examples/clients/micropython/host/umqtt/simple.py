"""A stand-in for micropython-lib's umqtt.simple, which no package registry serves in a form that installs.

The part of its interface and of its manners that the client uses: `connect` raises MQTTException with CONNACK's code,
`subscribe` waits for SUBACK, messages go to the callback while something is waited for, `check_msg` never blocks, and
the end of the connection is an OSError. On a board, `mpremote mip install umqtt.simple` brings the real one.
"""

import socket
import struct


class MQTTException(Exception):
    pass


def _text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(value)) + value


class MQTTClient:
    def __init__(self, client_id, server, port=0, user=None, password=None, keepalive=0, ssl=None):
        self.client_id, self.server, self.port = client_id, server, port or (8883 if ssl else 1883)
        self.user, self.password, self.keepalive, self.ssl = user, password, keepalive, ssl
        self.sock = self.callback = None
        self.packet_id = 0

    def set_callback(self, callback):
        self.callback = callback

    def connect(self, clean_session=True):
        self.sock = socket.socket()
        self.sock.connect(socket.getaddrinfo(self.server, self.port)[0][-1])
        if self.ssl:
            self.sock = self.ssl.wrap_socket(self.sock, server_hostname=self.server)
        flags = (2 if clean_session else 0) | (0xC0 if self.user else 0)
        login = _text(self.user) + _text(self.password) if self.user else b""
        head = _text("MQTT") + bytes([4, flags]) + struct.pack("!H", self.keepalive)
        self._send(0x10, head + _text(self.client_id) + login)
        kind, body = self._packet()
        if kind != 0x20 or len(body) != 2:
            raise AssertionError("no CONNACK")
        if body[1]:
            raise MQTTException(body[1])

    def disconnect(self):
        self._send(0xE0, b"")
        self.sock.close()

    def publish(self, topic, message, retain=False, qos=0):
        if qos:
            raise AssertionError("this stand-in publishes at QoS 0 only")
        message = message.encode() if isinstance(message, str) else message
        self._send(0x31 if retain else 0x30, _text(topic) + message)

    def subscribe(self, topic, qos=0):
        self.packet_id += 1
        self._send(0x82, struct.pack("!H", self.packet_id) + _text(topic) + bytes([qos]))
        while True:
            kind, body = self._packet()
            if kind == 0x90:
                if body[-1] == 0x80:
                    raise MQTTException(0x80)
                return
            self._take(kind, body)

    def wait_msg(self):
        self._take(*self._packet())

    def check_msg(self):
        self.sock.setblocking(False)
        first = self.sock.read(1)
        self.sock.setblocking(True)
        if first is not None:
            self._take(*self._packet(first))

    def _take(self, kind, body):
        if kind & 0xF0 == 0x30:
            length = struct.unpack("!H", body[:2])[0]
            rest = body[2 + length :]
            if kind & 6:
                self._send(0x40, rest[:2])
                rest = rest[2:]
            self.callback(body[2 : 2 + length], rest)

    def _send(self, kind, body):
        length, count = bytearray(), len(body)
        while True:
            length.append(count & 0x7F | (0x80 if count > 0x7F else 0))
            count >>= 7
            if not count:
                break
        self.sock.write(bytes([kind]) + bytes(length) + body)

    def _packet(self, first=None):
        kind = (first or self._read(1))[0]
        length = shift = 0
        while True:
            octet = self._read(1)[0]
            length |= (octet & 0x7F) << shift
            shift += 7
            if not octet & 0x80:
                return kind, self._read(length)

    def _read(self, count):
        got = b""
        while len(got) < count:
            more = self.sock.read(count - len(got))
            if not more:
                raise OSError(-1)
            got += more
        return got
