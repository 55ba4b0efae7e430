// NVS as files of the current directory, one a key, on disk when a call returns. The namespace "factory" is the one file
// device.json, with `key` under the name activationKey.
#pragma once
#include "Arduino.h"

#include <fcntl.h>
#include <fstream>
#include <sstream>
#include <unistd.h>

#define JSMN_STATIC
#define JSMN_STRICT
#include <jsmn.h>

class Preferences {
  bool isFactory = false;

  static String read(const char *name) {
    std::ifstream file(name, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  static bool write(const char *name, const std::string &text) {
    std::string fresh = std::string(name) + ".new";
    int file = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool good = file >= 0 && ::write(file, text.data(), text.size()) == (ssize_t)text.size() && !fsync(file);
    if (file >= 0) close(file);
    int folder = open(".", O_RDONLY);
    good = good && !rename(fresh.c_str(), name) && folder >= 0 && !fsync(folder);
    if (folder >= 0) close(folder);
    return good;
  }

  // The value of a key anywhere in device.json (its names are unique), and where it begins and ends.
  static String member(const char *name, int *from = nullptr, int *to = nullptr) {
    String text = read("device.json");
    jsmntok_t token[64];
    jsmn_parser parser;
    jsmn_init(&parser);
    int count = jsmn_parse(&parser, text.c_str(), text.size(), token, 64);
    for (int i = 1; i + 1 < count; i++)
      if (token[i].size == 1 && text.substring(token[i].start, token[i].end) == name) {
        if (from) *from = token[i + 1].start;
        if (to) *to = token[i + 1].end;
        String value = text.substring(token[i + 1].start, token[i + 1].end);
        for (size_t at; (at = value.find("\\n")) != String::npos;) value.replace(at, 2, "\n"); // of a certificate
        return value;
      }
    return "";
  }

 public:
  bool begin(const char *space) { isFactory = !strcmp(space, "factory"); return true; }
  bool isKey(const char *key) { return access(key, F_OK) == 0; }
  String getString(const char *key, const char *otherwise) {
    String found = isFactory ? member(strcmp(key, "key") ? key : "activationKey") : read(key);
    return found == "" ? String(otherwise) : found;
  }
  uint32_t getUInt(const char *key, uint32_t otherwise) {
    String found = getString(key, "");
    return found == "" ? otherwise : (uint32_t)found.toInt();
  }
  size_t putString(const char *key, const String &text) { return write(key, text) ? text.size() : 0; }
  size_t putBytes(const char *key, const void *octets, size_t count) {
    return write(key, std::string((const char *)octets, count)) ? count : 0;
  }
  size_t getBytesLength(const char *key) { return read(key).size(); }
  size_t getBytes(const char *key, void *octets, size_t capacity) {
    String found = read(key);
    if (found.size() > capacity) return 0;
    memcpy(octets, found.data(), found.size());
    return found.size();
  }
  bool remove(const char *key) {
    if (!isFactory) return unlink(key) == 0 || !isKey(key);
    int from = 0, to = 0;
    member(strcmp(key, "key") ? key : "activationKey", &from, &to);
    String text = read("device.json");
    return !to || write("device.json", text.substring(0, from) + text.substring(to)); // leaves an empty string
  }
};
