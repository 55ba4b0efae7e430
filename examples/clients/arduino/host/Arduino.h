// What the sketch uses of the ESP32's Arduino core, for a host: stubs, just enough to run it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/random.h>
#include <time.h>

class String : public std::string {
 public:
  String() {}
  String(const char *text) : std::string(text) {}
  explicit String(char sign) : std::string(1, sign) {}
  String(const std::string &text) : std::string(text) {}
  bool startsWith(const String &other) const { return rfind(other, 0) == 0; }
  String substring(size_t from) const { return substr(from); }
  String substring(size_t from, size_t to) const { return substr(from, to - from); }
  int lastIndexOf(char sign) const { return rfind(sign) == npos ? -1 : (int)rfind(sign); }
  int toInt() const { return atoi(c_str()); }
};

struct HostSerial {
  void begin(int) {}
  void print(const char *text) { fputs(text, stderr); }
  void println(const char *text) { fprintf(stderr, "%s\n", text); }
};
inline HostSerial Serial;

inline uint32_t millis() {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint32_t)(time.tv_sec * 1000 + time.tv_nsec / 1000000);
}
inline void delay(uint32_t milliseconds) {
  struct timespec time = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
  nanosleep(&time, nullptr);
}
inline void esp_fill_random(void *octets, size_t count) {
  if (getrandom(octets, count, 0) != (ssize_t)count) abort();
}
