#pragma once
#include "WiFi.h"

struct WiFiClientSecure : Client {
  void setCACert(const char *pem) { trusted = pem; }
};
