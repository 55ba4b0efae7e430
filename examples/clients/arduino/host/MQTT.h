// The part of the library "MQTT" (256dpi, 2.5) that the sketch uses, over libmosquitto: calls block until they are answered.
#pragma once
#include "WiFi.h"

#include <mosquitto.h>

enum { LWMQTT_SUCCESS = 0, LWMQTT_CONNECTION_DENIED = -10 };

class MQTTClient {
  using Callback = void (*)(MQTTClient *, char[], char[], int);
  mosquitto *session = nullptr;
  Callback callback = nullptr;
  Client *net = nullptr;
  String hostname;
  int port = 0, keepAlive = 10, timeout = 1000, code = 0;
  bool isUp = false;
  int answered = 0; // CONNACK, SUBACK, PUBACK
  int granted = 0x80;

  template <typename Done> bool await(Done done) {
    uint32_t start = millis();
    while (!done() && millis() - start < (uint32_t)timeout)
      if (mosquitto_loop(session, 50, 1)) return isUp = false, done();
    return done();
  }

 public:
  explicit MQTTClient(int) { mosquitto_lib_init(); }
  ~MQTTClient() { disconnect(); }
  void begin(const char name[], int number, Client &client) { hostname = name, port = number, net = &client; }
  void setOptions(int seconds, bool, int milliseconds) { keepAlive = seconds, timeout = milliseconds; }
  void onMessageAdvanced(Callback function) { callback = function; }
  int returnCode() { return code; }
  int lastError() { return code ? LWMQTT_CONNECTION_DENIED : LWMQTT_SUCCESS; }
  bool connected() { return isUp; }

  bool connect(const char id[], const char user[], const char password[]) {
    disconnect();
    code = 0;
    session = mosquitto_new(id, true, this);
    mosquitto_int_option(session, MOSQ_OPT_TCP_NODELAY, 1);
    mosquitto_username_pw_set(session, user, password);
    if (net->trusted != "") {
      FILE *file = fopen("ca.pem", "w");
      if (!file) return false;
      fputs(net->trusted.c_str(), file);
      fclose(file);
      mosquitto_tls_set(session, "ca.pem", nullptr, nullptr, nullptr, nullptr);
    }
    mosquitto_connect_callback_set(session, [](mosquitto *, void *self, int said) {
      auto client = (MQTTClient *)self;
      client->code = said, client->isUp = !said, client->answered++;
    });
    mosquitto_disconnect_callback_set(session, [](mosquitto *, void *self, int) { ((MQTTClient *)self)->isUp = false; });
    mosquitto_subscribe_callback_set(session, [](mosquitto *, void *self, int, int, const int *said) {
      ((MQTTClient *)self)->granted = said[0], ((MQTTClient *)self)->answered++;
    });
    mosquitto_publish_callback_set(session, [](mosquitto *, void *self, int) { ((MQTTClient *)self)->answered++; });
    mosquitto_message_callback_set(session, [](mosquitto *, void *self, const mosquitto_message *message) {
      auto client = (MQTTClient *)self;
      client->callback(client, message->topic, (char *)message->payload, message->payloadlen);
    });
    answered = 0;
    if (mosquitto_connect(session, hostname.c_str(), port, keepAlive)) return false;
    return await([this] { return answered > 0; }) && isUp;
  }

  bool subscribe(const char topic[], int qos) {
    answered = 0;
    return isUp && !mosquitto_subscribe(session, nullptr, topic, qos) && await([this] { return answered > 0; }) && granted < 3;
  }

  bool publish(const char topic[], const char payload[], int length, bool retained, int qos) {
    answered = 0;
    return isUp && !mosquitto_publish(session, nullptr, topic, length, payload, qos, retained) &&
           await([this] { return answered > 0; });
  }

  bool loop() {
    if (isUp && mosquitto_loop(session, 1, 1)) isUp = false;
    return isUp;
  }

  bool disconnect() {
    if (session) {
      mosquitto_disconnect(session);
      mosquitto_destroy(session);
    }
    session = nullptr;
    return isUp = false, true;
  }
};
