/* A caller of provision.h: MQTT by libmosquitto, cryptography by mbedTLS, flash as files of a directory.
 *
 *     caller DIRECTORY
 *
 * DIRECTORY holds device.json, what the factory wrote, and later the two slots. Runs until the device works under its new
 * identity; may be killed and started again at any point. Ends with 3 where only a change of firmware or an operator helps.
 */
#define _GNU_SOURCE
#define PROVISION_BUFFER 8192
#define PROVISION_CA 4096
#define PROVISION_IMPLEMENTATION
#include "provision.h"

#include <fcntl.h>
#include <mbedtls/gcm.h>
#include <mbedtls/md.h>
#include <mosquitto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

struct unit {
  struct provision machine;
  struct mosquitto *session;
  char host[256], user[129], password[256], client_id[129], key[129], ca[512];
  int port, lost, connected, subscribed;
  char *message; /* one that arrived, until the machine has seen it */
  size_t message_length;
};

static uint32_t now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint32_t)(time.tv_sec * 1000 + time.tv_nsec / 1000000);
}

static void tell(void *caller, const char *step, const char *detail) {
  (void)caller;
  fprintf(stderr, "%s %s\n", step, detail);
}

/* --- storage: two slots and a mark; each file is on disk before the next thing happens ------------------------------- */

static int write_file(const char *name, const char *text, size_t length) {
  char fresh[64];
  snprintf(fresh, sizeof fresh, "%s.new", name);
  int file = open(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file < 0) return -1;
  int bad = write(file, text, length) != (ssize_t)length || fsync(file);
  bad |= close(file) || rename(fresh, name);
  int folder = open(".", O_RDONLY);
  bad |= folder < 0 || fsync(folder);
  if (folder >= 0) close(folder);
  return bad;
}

static size_t read_file(const char *name, char *text, size_t capacity) {
  int file = open(name, O_RDONLY);
  ssize_t length = file < 0 ? 0 : read(file, text, capacity);
  if (file >= 0) close(file);
  return length < 0 ? 0 : (size_t)length;
}

static char current(void) { /* '0', '1', or 0 for none */
  char mark = 0;
  return read_file("current", &mark, 1) ? mark : 0;
}

static int store(void *caller, const char *offer, size_t length) {
  (void)caller;
  const char *mark = current() == '0' ? "1" : "0";
  char name[] = "slot-0";
  name[5] = *mark;
  unlink("confirmed");
  return write_file(name, offer, length) || write_file("current", mark, 1);
}

static size_t load(void *caller, char *offer, size_t capacity) {
  (void)caller;
  char name[] = "slot-0";
  name[5] = current();
  return name[5] ? read_file(name, offer, capacity) : 0;
}

static int drop(void *caller) { (void)caller; return write_file("current", "", 0); }
static int confirm(void *caller) { (void)caller; return write_file("confirmed", "", 0); }
static int is_confirmed(void *caller) { (void)caller; return access("confirmed", F_OK) == 0; }

static int forget(void *caller) {
  struct unit *unit = caller;
  char text[512];
  int length = snprintf(text, sizeof text, "{\"user\": \"%s\", \"clientId\": \"%s\"}", unit->user, unit->client_id);
  return write_file("device.json", text, (size_t)length);
}

/* --- cryptography ----------------------------------------------------------------------------------------------------- */

static int fill_random(void *caller, uint8_t *octets, size_t count) {
  (void)caller;
  return getrandom(octets, count, 0) != (ssize_t)count;
}

static int hmac_sha256(void *caller, const uint8_t *key, size_t key_length, const char *text, size_t length, uint8_t mac[32]) {
  (void)caller;
  return mbedtls_md_hmac(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), key, key_length, (const uint8_t *)text, length, mac);
}

static int open_gcm(void *caller, const uint8_t key[32], const uint8_t iv[12], const char *about, const uint8_t tag[16],
                    uint8_t *text, size_t length) {
  (void)caller;
  mbedtls_gcm_context gcm;
  mbedtls_gcm_init(&gcm);
  int bad = mbedtls_gcm_setkey(&gcm, MBEDTLS_CIPHER_ID_AES, key, 256) ||
            mbedtls_gcm_auth_decrypt(&gcm, length, iv, 12, (const uint8_t *)about, strlen(about), tag, 16, text, text);
  mbedtls_gcm_free(&gcm);
  return bad;
}

/* --- the provisioning session: libmosquitto calls back from mosquitto_loop, the main loop tells the machine ------------ */

static void on_connect(struct mosquitto *m, void *caller, int code) {
  (void)m;
  struct unit *unit = caller;
  if (code) unit->lost = 1;
  else unit->connected = 1;
}
static void on_subscribe(struct mosquitto *m, void *caller, int id, int count, const int *granted) {
  (void)m, (void)id;
  struct unit *unit = caller;
  if (count < 1 || granted[0] > 2) unit->lost = 1;
  else unit->subscribed = 1;
}
static void on_message(struct mosquitto *m, void *caller, const struct mosquitto_message *message) {
  (void)m;
  struct unit *unit = caller;
  free(unit->message);
  unit->message = malloc((size_t)message->payloadlen + 1);
  unit->message_length = unit->message ? (size_t)message->payloadlen : 0;
  if (unit->message) memcpy(unit->message, message->payload, unit->message_length);
}
static void on_disconnect(struct mosquitto *m, void *caller, int code) {
  (void)m, (void)code;
  ((struct unit *)caller)->lost = 1;
}

static void hang_up(void *caller) {
  struct unit *unit = caller;
  if (!unit->session) return;
  mosquitto_disconnect(unit->session);
  mosquitto_destroy(unit->session);
  unit->session = NULL;
  unit->lost = unit->connected = unit->subscribed = 0;
}

static int dial(void *caller) {
  struct unit *unit = caller;
  hang_up(unit);
  unit->session = mosquitto_new(unit->client_id, true, unit);
  if (!unit->session) return -1;
  mosquitto_connect_callback_set(unit->session, on_connect);
  mosquitto_subscribe_callback_set(unit->session, on_subscribe);
  mosquitto_message_callback_set(unit->session, on_message);
  mosquitto_disconnect_callback_set(unit->session, on_disconnect);
  mosquitto_int_option(unit->session, MOSQ_OPT_TCP_NODELAY, 1);
  if (*unit->ca && mosquitto_tls_set(unit->session, unit->ca, NULL, NULL, NULL, NULL)) return -1;
  return mosquitto_username_pw_set(unit->session, unit->user, unit->password) ||
         mosquitto_connect(unit->session, unit->host, unit->port, 60);
}

static int subscribe(void *caller, const char *topic) {
  return mosquitto_subscribe(((struct unit *)caller)->session, NULL, topic, 1);
}

static int publish(void *caller, const char *topic, const char *payload, size_t length) {
  return mosquitto_publish(((struct unit *)caller)->session, NULL, topic, (int)length, payload, 1, false);
}

/* --- the new identity: one blocking login, a hello as its first message ----------------------------------------------- */

static int answer; /* of CONNACK, -1 while there is none */
static int published;
static void on_login(struct mosquitto *m, void *caller, int code) { (void)m, (void)caller; answer = code; }
static void on_publish(struct mosquitto *m, void *caller, int id) { (void)m, (void)caller, (void)id; published = 1; }

static void hello_topic(const char *filter, char *topic, size_t capacity) { /* "hello" in place of each wildcard */
  size_t length = 0;
  for (; *filter && length + 6 < capacity; filter++)
    length += (size_t)snprintf(topic + length, capacity - length, *filter == '#' || *filter == '+' ? "hello" : "%c", *filter);
  topic[length] = 0;
}

static enum provision_login log_in(const struct provision_credential *credential) {
  char host[256], topic[300];
  int secure = !strncmp(credential->url, "mqtts://", 8), port = secure ? 8883 : 1883;
  snprintf(host, sizeof host, "%s", credential->url + (secure ? 8 : 7));
  char *colon = strrchr(host, ':');
  if (colon && !strchr(colon, ']')) port = atoi(colon + 1), *colon = 0;
  if (*host == '[') memmove(host, host + 1, strcspn(host, "]")), host[strcspn(host, "]")] = 0;
  struct mosquitto *session = mosquitto_new(credential->client_id, true, NULL);
  if (!session) return PROVISION_UNREACHABLE;
  answer = -1, published = 0;
  mosquitto_connect_callback_set(session, on_login);
  mosquitto_publish_callback_set(session, on_publish);
  mosquitto_username_pw_set(session, credential->username, credential->password);
  int bad = 0;
  if (secure && *credential->ca)
    bad = write_file("broker-ca.pem", credential->ca, strlen(credential->ca)) ||
          mosquitto_tls_set(session, "broker-ca.pem", NULL, NULL, NULL, NULL);
  else if (secure)
    bad = mosquitto_tls_set(session, NULL, "/etc/ssl/certs", NULL, NULL, NULL);
  bad = bad || mosquitto_connect(session, host, port, 60);
  uint32_t end = now_ms() + 10000;
  while (!bad && answer < 0 && (int32_t)(now_ms() - end) < 0) bad = mosquitto_loop(session, 100, 1);
  hello_topic(credential->publish, topic, sizeof topic);
  published = answer == 0 && !*topic; /* it may not publish: that it is in will do */
  bad = answer || published || mosquitto_publish(session, NULL, topic, 5, "hello", 1, false);
  while (!bad && !published && (int32_t)(now_ms() - end) < 0) bad = mosquitto_loop(session, 100, 1);
  mosquitto_disconnect(session);
  mosquitto_destroy(session);
  if (published) return PROVISION_ACCEPTED;
  return answer == 2 || answer == 4 || answer == 5 ? PROVISION_REFUSED : PROVISION_UNREACHABLE;
}

static void begin_login(void *caller, const struct provision_credential *credential) {
  struct unit *unit = caller;
  provision_login(&unit->machine, log_in(credential), now_ms());
}

/* --- the main loop ------------------------------------------------------------------------------------------------------ */

static void text_of(const struct prov_json *json, const char *key, char *out, size_t capacity) {
  if (!prov_string(json, 0, key, out, capacity)) *out = 0;
}

static int is_factory_written(struct unit *unit, struct provision_factory *factory) {
  static char text[4096];
  struct prov_json json;
  char mode[16];
  uint32_t number = 0;
  if (!prov_parse(&json, text, read_file("device.json", text, sizeof text))) return 0;
  text_of(&json, "host", unit->host, sizeof unit->host);
  text_of(&json, "user", unit->user, sizeof unit->user);
  text_of(&json, "password", unit->password, sizeof unit->password);
  text_of(&json, "clientId", unit->client_id, sizeof unit->client_id);
  text_of(&json, "activationKey", unit->key, sizeof unit->key);
  text_of(&json, "ca", unit->ca, sizeof unit->ca);
  text_of(&json, "mode", mode, sizeof mode);
  prov_number(&json, 0, "port", &number);
  unit->port = (int)number;
  *factory = (struct provision_factory){.user = unit->user, .client_id = unit->client_id, .activation_key = unit->key,
                                        .plain = !strcmp(mode, "plain"), .has_login = *unit->password != 0};
  int times = prov_find(&json, 0, "times");
  if (times) {
    prov_number(&json, times, "replyMs", &factory->reply_ms);
    prov_number(&json, times, "firstPauseMs", &factory->first_pause_ms);
    prov_number(&json, times, "longestPauseMs", &factory->longest_pause_ms);
  }
  return 1;
}

int main(int count, char **arguments) {
  static struct unit unit;
  static const struct provision_io io = {
      .caller = &unit, .connect = dial, .subscribe = subscribe, .publish = publish, .disconnect = hang_up,
      .login = begin_login, .store = store, .load = load, .drop = drop, .confirm = confirm, .is_confirmed = is_confirmed,
      .forget = forget, .random = fill_random, .hmac_sha256 = hmac_sha256, .open_gcm = open_gcm, .tell = tell};
  struct provision_factory factory;
  struct provision *machine = &unit.machine;
  if (count != 2 || chdir(arguments[1]) || !is_factory_written(&unit, &factory)) {
    fprintf(stderr, "usage: caller DIRECTORY, with a device.json in it\n");
    return 2;
  }
  mosquitto_lib_init();
  provision_start(machine, &io, &factory, now_ms());
  while (machine->state != PROVISION_DONE && machine->state != PROVISION_STOPPED) {
    if (!unit.session) usleep(20000);
    else if (mosquitto_loop(unit.session, 50, 1)) unit.lost = 1;
    if (unit.connected) unit.connected = 0, provision_connected(machine, now_ms());
    if (unit.subscribed) unit.subscribed = 0, provision_subscribed(machine, now_ms());
    if (unit.message) {
      char *message = unit.message;
      unit.message = NULL;
      provision_message(machine, message, unit.message_length, now_ms());
      free(message);
    }
    if (unit.lost) unit.lost = 0, provision_lost(machine, now_ms());
    provision_tick(machine, now_ms());
  }
  hang_up(&unit);
  if (machine->state == PROVISION_STOPPED) return tell(NULL, "stopped:", machine->reason), 3;
  while (log_in(&machine->credential) != PROVISION_ACCEPTED) sleep(5);
  tell(NULL, "online", "");
  return 0;
}
