// The network of the host is always there.
#pragma once
#include "Arduino.h"

enum { WL_CONNECTED = 3 };
struct HostWiFi {
  void begin(const char *, const char *) {}
  int status() { return WL_CONNECTED; }
};
inline HostWiFi WiFi;

struct Client {
  String trusted; // PEM; empty: no TLS
};
struct WiFiClient : Client {};
