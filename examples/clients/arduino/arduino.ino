// Get this device its own MQTT credentials: a sketch for the ESP32 with the library "MQTT" (256dpi), in one file.
//
// Beside it belong provision.h (../c/), which holds the contract, and jsmn.h. The factory writes the namespace "factory" of
// the NVS: ssid, wifi, host, port, user, password, clientId, key, mode, ca; the credential goes to two keys of "prov".
// May lose its power at any point.

#include <MQTT.h>
#include <Preferences.h>
#include <WiFi.h>
#include <WiFiClientSecure.h>
#include <mbedtls/gcm.h>
#include <mbedtls/md.h>

#define PROVISION_BUFFER 6144 // an offer with a CA certificate
#define PROVISION_CA 3072
#define PROVISION_IMPLEMENTATION
#include "provision.h"

static Preferences factory, flash;
static String host, user, password, clientId, key, ca;
static WiFiClient plainNet;
static WiFiClientSecure secureNet;
static MQTTClient mqtt(PROVISION_BUFFER + 512);
static struct provision machine;
static bool isConnected, isSubscribed, isOnline;
static char message[PROVISION_BUFFER]; // one that arrived, until the machine has seen it
static size_t messageLength;

static void tell(void *, const char *step, const char *detail) {
  Serial.print(step);
  Serial.print(" ");
  Serial.println(detail);
}

// --- storage: NVS writes a key whole or not at all, and has written it when it returns

static String currentSlot() { return flash.getString("current", ""); }
static const char *slotName(const String &mark) { return mark == "1" ? "slot-1" : "slot-0"; }

static int store(void *, const char *offer, size_t length) {
  String mark = currentSlot() == "0" ? "1" : "0"; // the free one
  flash.remove("confirmed");
  if (flash.putBytes(slotName(mark), offer, length) != length) return -1;
  return flash.putString("current", mark) != mark.length();
}

static size_t load(void *, char *offer, size_t capacity) {
  String mark = currentSlot();
  size_t length = mark == "" ? 0 : flash.getBytesLength(slotName(mark));
  return length && length <= capacity ? flash.getBytes(slotName(mark), offer, capacity) : 0;
}

static int drop(void *) { return !flash.remove("current"); }
static int confirm(void *) { return flash.putString("confirmed", "yes") != 3; }
static int isConfirmed(void *) { return flash.isKey("confirmed"); }
// The password first: without it the unit knows at its next start that it was told to forget.
static int forget(void *) { return !(factory.remove("password") && factory.remove("key")); }

// --- cryptography: mbedTLS, which uses the chip's accelerator

static int fillRandom(void *, uint8_t *octets, size_t count) {
  esp_fill_random(octets, count);
  return 0;
}

static int hmacSha256(void *, const uint8_t *by, size_t keyLength, const char *text, size_t length, uint8_t mac[32]) {
  return mbedtls_md_hmac(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), by, keyLength, (const uint8_t *)text, length, mac);
}

static int openGcm(void *, const uint8_t by[32], const uint8_t iv[12], const char *about, const uint8_t tag[16], uint8_t *text,
                   size_t length) {
  mbedtls_gcm_context gcm;
  mbedtls_gcm_init(&gcm);
  int bad = mbedtls_gcm_setkey(&gcm, MBEDTLS_CIPHER_ID_AES, by, 256);
  if (!bad) bad = mbedtls_gcm_auth_decrypt(&gcm, length, iv, 12, (const uint8_t *)about, strlen(about), tag, 16, text, text);
  mbedtls_gcm_free(&gcm);
  return bad;
}

// --- MQTT: one client, first as what the factory wrote, then as the new identity. Its calls block until they are answered.

static bool dialAs(const char *name, int port, const char *trusted, const char *id, const char *as, const char *secret) {
  static char server[256]; // the client keeps the pointer
  strncpy(server, name, sizeof server - 1);
  mqtt.disconnect();
  if (trusted && *trusted) secureNet.setCACert(trusted);
  if (trusted) mqtt.begin(server, port, secureNet);
  else mqtt.begin(server, port, plainNet);
  mqtt.setOptions(60, true, 10000);
  return mqtt.connect(id, as, secret);
}

static int dial(void *) {
  const char *trusted = ca == "" ? nullptr : ca.c_str();
  isConnected = dialAs(host.c_str(), factory.getString("port", "1884").toInt(), trusted, clientId.c_str(), user.c_str(),
                       password.c_str());
  return !isConnected;
}

static int subscribe(void *, const char *topic) {
  isSubscribed = mqtt.subscribe(topic, 1); // waits for SUBACK
  return !isSubscribed;
}

static int publish(void *, const char *topic, const char *payload, size_t length) {
  return !mqtt.publish(topic, payload, (int)length, false, 1);
}

static void hangUp(void *) {
  mqtt.disconnect();
  isConnected = isSubscribed = false;
}

static void arrived(MQTTClient *, char[], char bytes[], int length) {
  if (length < 0 || (size_t)length > sizeof message) return; // does not fit: as good as not received
  memcpy(message, bytes, (size_t)length);
  messageLength = (size_t)length;
}

// --- the new identity

static bool connectAs(const struct provision_credential &credential) {
  String url = credential.url, secure = "mqtts://";
  bool tls = url.startsWith(secure);
  String where = url.substring(tls ? 8 : 7);
  int colon = where.lastIndexOf(':'), port = colon < 0 ? (tls ? 8883 : 1883) : where.substring(colon + 1).toInt();
  String name = colon < 0 ? where : where.substring(0, colon);
  String hello;
  for (const char *at = credential.publish; *at; at++) hello += *at == '#' || *at == '+' ? String("hello") : String(*at);
  return dialAs(name.c_str(), port, tls ? credential.ca : nullptr, credential.client_id, credential.username,
                credential.password) &&
         (hello == "" || mqtt.publish(hello.c_str(), "hello", 5, false, 1));
}

static void logIn(void *, const struct provision_credential *credential) {
  bool in = connectAs(*credential);
  int code = mqtt.returnCode(); // what CONNACK said, if there was one: 2, 4 and 5 are meant for us
  bool refused = !in && mqtt.lastError() == LWMQTT_CONNECTION_DENIED && (code == 2 || code == 4 || code == 5);
  mqtt.disconnect();
  provision_login(&machine, in ? PROVISION_ACCEPTED : refused ? PROVISION_REFUSED : PROVISION_UNREACHABLE, millis());
}

static const struct provision_io io = {nullptr, dial,  subscribe, publish,     hangUp, logIn,      store,      load,    drop,
                                       confirm, isConfirmed, forget,    fillRandom, hmacSha256, openGcm, tell};

void setup() {
  Serial.begin(115200);
  factory.begin("factory");
  flash.begin("prov");
  WiFi.begin(factory.getString("ssid", "").c_str(), factory.getString("wifi", "").c_str());
  while (WiFi.status() != WL_CONNECTED) delay(100);
  host = factory.getString("host", "");
  user = factory.getString("user", "");
  password = factory.getString("password", "");
  clientId = factory.getString("clientId", "");
  key = factory.getString("key", "");
  ca = factory.getString("ca", "");
  mqtt.onMessageAdvanced(arrived);
  struct provision_factory written = {user.c_str(), clientId.c_str(), key.c_str(),
                                      factory.getString("mode", "proof") == "plain", password != "",
                                      factory.getUInt("replyMs", 0), factory.getUInt("firstPauseMs", 0),
                                      factory.getUInt("longestPauseMs", 0)};
  provision_start(&machine, &io, &written, millis());
}

void loop() {
  if (machine.state == PROVISION_STOPPED) {
    delay(1000);
  } else if (machine.state == PROVISION_DONE) {
    if (!mqtt.loop()) { // here the work begins
      isOnline = connectAs(machine.credential);
      if (isOnline) tell(nullptr, "online", "");
      else delay(5000);
    }
  } else {
    if (isConnected) {
      isConnected = false;
      provision_connected(&machine, millis());
    }
    if (isSubscribed) {
      isSubscribed = false;
      provision_subscribed(&machine, millis());
    }
    if (machine.up && !mqtt.loop()) provision_lost(&machine, millis());
    if (messageLength) {
      size_t length = messageLength;
      messageLength = 0;
      provision_message(&machine, message, length, millis());
    }
    provision_tick(&machine, millis());
    delay(10);
  }
}
