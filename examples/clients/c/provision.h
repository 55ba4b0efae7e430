/* Get this device its own MQTT credentials: a state machine in one file, without malloc, sockets, clock or cryptography
 * of its own. The caller lends those (struct provision_io) and reports what happened; see caller.c.
 *
 *     #define PROVISION_IMPLEMENTATION      in one file
 *     #include "provision.h"
 *
 * 1. One message at a time, repeated with the same requestId and a fresh nonce until its reply; a reply to one of the
 *    last four nonces counts, everything else is dropped.
 * 2. A reply without a valid proof means at most "try later". In plain mode nothing is proved: there it may also be an
 *    offer or end an exchange, and never makes the device stop or forget.
 * 3. An offer is stored and read back before anything is said about it.
 * 4. Every copy is bounded. What does not fit is as good as not received; `maxReply` tells the server beforehand.
 *
 * Needs jsmn.h (header only, no malloc). Times are milliseconds of a counter that may wrap around.
 */
#ifndef PROVISION_H
#define PROVISION_H

#include <stddef.h>
#include <stdint.h>

#ifndef PROVISION_BUFFER
#define PROVISION_BUFFER 2048 /* bytes: the largest message either way; offers with a CA certificate need more */
#endif
#ifndef PROVISION_CA
#define PROVISION_CA 1024 /* bytes of a CA certificate; 1 where device brokers need none */
#endif
#ifndef PROVISION_TOKENS
#define PROVISION_TOKENS 96 /* JSON tokens of the largest message */
#endif

struct provision_factory { /* what the factory wrote; the texts outlive the machine */
  const char *user, *client_id, *activation_key;
  int plain;     /* show the activation key instead of proving it: only over TLS with a checked certificate, or loopback */
  int has_login; /* 0 once the provisioning login was forgotten */
  uint32_t reply_ms, first_pause_ms, longest_pause_ms; /* 0: those of the contract, 10 s, 5 s, 300 s */
};

struct provision_credential { /* what an offer says, as texts that end with 0 */
  char request_id[65], client_id[129], username[256], password[129], url[256], account[129], ca[PROVISION_CA];
  char publish[256]; /* the first topic filter it may publish to, "" for none */
  uint32_t generation;
};

struct provision_io { /* the first argument is `caller`; 0 is success */
  void *caller;
  /* the provisioning session; report provision_connected, _subscribed, _message, or _lost */
  int (*connect)(void *);
  int (*subscribe)(void *, const char *topic);
  int (*publish)(void *, const char *topic, const char *payload, size_t length);
  void (*disconnect)(void *);
  /* log in at the device broker once; report provision_login */
  void (*login)(void *, const struct provision_credential *);
  /* storage: whole or not at all, and on the chip when they return. `load` gives the length, 0 if there is none. */
  int (*store)(void *, const char *offer, size_t length);
  size_t (*load)(void *, char *offer, size_t capacity);
  int (*drop)(void *);
  int (*confirm)(void *);
  int (*is_confirmed)(void *);
  int (*forget)(void *); /* erase the provisioning login and the activation key */
  /* cryptography: of the chip, or of a library */
  int (*random)(void *, uint8_t *octets, size_t count);
  int (*hmac_sha256)(void *, const uint8_t *key, size_t key_length, const char *text, size_t length, uint8_t mac[32]);
  int (*open_gcm)(void *, const uint8_t key[32], const uint8_t iv[12], const char *about, const uint8_t tag[16],
                  uint8_t *text, size_t length); /* AES-256-GCM, decrypts in place */
  void (*tell)(void *, const char *step, const char *detail);
};

enum provision_state {
  PROVISION_CONNECTING, PROVISION_WAITING, PROVISION_PAUSING, PROVISION_LOGGING_IN, PROVISION_RESTING,
  PROVISION_DONE,   /* confirmed: work with `credential` */
  PROVISION_STOPPED /* only another firmware or an operator helps; `reason` says why */
};

struct provision {
  const struct provision_io *io;
  struct provision_factory factory;
  struct provision_credential credential;
  enum provision_state state;
  uint32_t due; /* when provision_tick is wanted; not in PROVISION_DONE, _STOPPED and _LOGGING_IN */
  char reason[24];
  /* the rest is its own business */
  uint8_t k_auth[32], k_seal[32];
  char request_id[24], nonces[4][33], buffer[PROVISION_BUFFER];
  uint8_t asks, up, nonce, attempt, silent, refused, unreached;
};

enum provision_login { PROVISION_ACCEPTED, PROVISION_REFUSED, PROVISION_UNREACHABLE };

void provision_start(struct provision *, const struct provision_io *, const struct provision_factory *, uint32_t now);
void provision_connected(struct provision *, uint32_t now);
void provision_subscribed(struct provision *, uint32_t now);
void provision_lost(struct provision *, uint32_t now);
void provision_message(struct provision *, char *payload, size_t length, uint32_t now); /* overwrites the payload */
void provision_login(struct provision *, enum provision_login, uint32_t now);
void provision_tick(struct provision *, uint32_t now);

#endif

#ifdef PROVISION_IMPLEMENTATION
#define JSMN_STATIC
#define JSMN_STRICT
#include <jsmn.h>
#include <string.h>

enum { PROVISION_CLAIM, PROVISION_STORED, PROVISION_FAILED };

/* --- text: bounded, and any overflow is remembered ------------------------------------------------------------------ */

struct prov_text {
  char *at;
  size_t length, capacity;
};

static void prov_add(struct prov_text *text, const char *more) {
  size_t count = strlen(more);
  if (text->length + count < text->capacity) memcpy(text->at + text->length, more, count + 1);
  text->length += count; /* beyond the capacity: too long, seen by prov_fits */
}

static int prov_fits(const struct prov_text *text) { return text->length < text->capacity; }

static void prov_add_number(struct prov_text *text, uint32_t number) {
  char digits[11], *at = digits + 10;
  *at = 0;
  do *--at = (char)('0' + number % 10); while (number /= 10);
  prov_add(text, at);
}

static void prov_add_key(struct prov_text *text, const char *key) { /* as a JSON string: 0x21-0x7E, two need a backslash */
  char sign[3] = {0};
  for (; *key; key++) {
    sign[0] = *key == '"' || *key == '\\' ? '\\' : *key;
    sign[1] = sign[0] == '\\' ? *key : 0;
    prov_add(text, sign);
  }
}

static const char PROV_64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void prov_encode64(const uint8_t *octets, size_t count, char *text) {
  uint32_t bits = 0;
  int held = 0;
  while (count--) {
    bits = bits << 8 | *octets++;
    for (held += 8; held >= 6; held -= 6) *text++ = PROV_64[bits >> (held - 6) & 63];
  }
  if (held) *text++ = PROV_64[bits << (6 - held) & 63];
  *text = 0;
}

static long prov_decode64(char *text, size_t count) { /* in place; the number of bytes, -1 for another alphabet */
  uint8_t *to = (uint8_t *)text;
  uint32_t bits = 0;
  int held = 0;
  for (size_t i = 0; i < count; i++) {
    const char *found = text[i] ? strchr(PROV_64, text[i]) : NULL;
    if (!found) return -1;
    bits = bits << 6 | (uint32_t)(found - PROV_64);
    held += 6;
    if (held >= 8) *to++ = (uint8_t)(bits >> (held -= 8));
  }
  return (long)((char *)to - text);
}

/* --- JSON ----------------------------------------------------------------------------------------------------------- */

struct prov_json {
  const char *text;
  jsmntok_t token[PROVISION_TOKENS];
  int count;
};

static int prov_parse(struct prov_json *json, const char *text, size_t length) {
  jsmn_parser parser;
  jsmn_init(&parser);
  json->text = text;
  json->count = jsmn_parse(&parser, text, length, json->token, PROVISION_TOKENS);
  return json->count > 0 && json->token[0].type == JSMN_OBJECT;
}

static int prov_next(const struct prov_json *json, int at) { /* the token after this value and all it holds */
  int end = json->token[at].end;
  while (++at < json->count && json->token[at].start < end) {}
  return at;
}

static int prov_find(const struct prov_json *json, int object, const char *key) { /* its value's token, 0 if there is none */
  if (json->token[object].type != JSMN_OBJECT) return 0;
  int at = object + 1;
  for (int left = json->token[object].size; left-- && at + 1 < json->count; at = prov_next(json, at + 1)) {
    size_t length = (size_t)(json->token[at].end - json->token[at].start);
    if (length == strlen(key) && !memcmp(json->text + json->token[at].start, key, length)) return at + 1;
  }
  return 0;
}

static int prov_hex(const char *at, unsigned *value) { /* four digits; the parser made sure of them */
  static const char digits[] = "0123456789abcdef";
  *value = 0;
  for (int i = 0; i < 4; i++) {
    char sign = at[i] >= 'A' && at[i] <= 'F' ? (char)(at[i] | 32) : at[i];
    const char *found = sign ? strchr(digits, sign) : NULL;
    if (!found) return 0;
    *value = *value << 4 | (unsigned)(found - digits);
  }
  return 1;
}

/* A string without its escapes. ASCII escapes only: no text that we use needs others. False if absent, no string, or too long. */
static int prov_text_at(const struct prov_json *json, int at, char *out, size_t capacity) {
  if (!at || json->token[at].type != JSMN_STRING) return 0;
  size_t length = 0;
  for (int i = json->token[at].start; i < json->token[at].end; i++) {
    char sign = json->text[i];
    if (sign == '\\') {
      static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
      unsigned value = 0;
      sign = json->text[++i];
      if (sign == 'u') {
        if (!prov_hex(json->text + i + 1, &value) || value > 127) return 0;
        i += 4;
        sign = (char)value;
      } else {
        const char *found = escapes;
        while (*found && *found != sign) found += 2;
        sign = *found ? found[1] : 0;
      }
    }
    if (!sign || length + 1 >= capacity) return 0;
    out[length++] = sign;
  }
  out[length] = 0;
  return 1;
}

static int prov_string(const struct prov_json *json, int object, const char *key, char *out, size_t capacity) {
  return prov_text_at(json, prov_find(json, object, key), out, capacity);
}

static int prov_number(const struct prov_json *json, int object, const char *key, uint32_t *value) {
  int at = prov_find(json, object, key);
  if (!at || json->token[at].type != JSMN_PRIMITIVE) return 0;
  uint64_t number = 0;
  for (int i = json->token[at].start; i < json->token[at].end; i++) {
    if (json->text[i] < '0' || json->text[i] > '9' || number > UINT32_MAX) return 0;
    number = number * 10 + (uint64_t)(json->text[i] - '0');
  }
  *value = (uint32_t)number;
  return number <= UINT32_MAX;
}

static int prov_true(const struct prov_json *json, const char *key) {
  int at = prov_find(json, 0, key);
  return at && json->token[at].type == JSMN_PRIMITIVE && json->text[json->token[at].start] == 't';
}

/* --- keys ----------------------------------------------------------------------------------------------------------- */

static int prov_same(const uint8_t *one, const uint8_t *other, size_t count) { /* in constant time */
  uint8_t differs = 0;
  while (count--) differs |= *one++ ^ *other++;
  return !differs;
}

#ifndef PROVISION_PLAIN_ONLY
static void prov_mac(struct provision *p, const uint8_t *key, size_t length, const struct prov_text *text, uint8_t mac[32]) {
  if (!prov_fits(text) || p->io->hmac_sha256(p->io->caller, key, length, text->at, text->length, mac)) memset(mac, 0, 32);
}

static void prov_derive(struct provision *p, const char *label, uint8_t key[32]) {
  char space[300];
  struct prov_text text = {space, 0, sizeof space};
  const char *parts[] = {label, p->factory.user, "|", p->factory.client_id};
  for (size_t i = 0; i < 4; i++) prov_add(&text, parts[i]);
  prov_mac(p, (const uint8_t *)p->factory.activation_key, strlen(p->factory.activation_key), &text, key);
}

static int prov_is_proved(struct provision *p, const struct prov_json *json, const char *nonce, const char *reason) {
  char space[200], proof[45], expected[45];
  uint8_t mac[32];
  uint32_t number;
  struct prov_text text = {space, 0, sizeof space};
  if (p->factory.plain || !prov_string(json, 0, "proof", proof, sizeof proof) || strlen(proof) != 43) return 0;
  const char *parts[] = {"reply|", p->request_id, "|", nonce, "|"};
  for (size_t i = 0; i < 5; i++) prov_add(&text, parts[i]);
  if (prov_number(json, 0, "code", &number)) prov_add_number(&text, number);
  prov_add(&text, "|");
  prov_add(&text, reason);
  prov_add(&text, "|");
  if (prov_number(json, 0, "generation", &number)) prov_add_number(&text, number);
  prov_add(&text, "|");
  if (prov_number(json, 0, "retryAfter", &number)) prov_add_number(&text, number);
  prov_add(&text, prov_true(json, "forget") ? "|true" : "|");
  prov_mac(p, p->k_auth, 32, &text, mac);
  prov_encode64(mac, 32, expected);
  return prov_same((uint8_t *)proof, (uint8_t *)expected, 43);
}

static long prov_open(struct provision *p, const struct prov_json *json, char *payload, const char *nonce) {
  /* The length of the offer, which replaces the payload from its beginning; -1 unless it was sealed for us. */
  char alg[8], space[300];
  uint8_t key[32];
  int at = prov_find(json, 0, "sealed");
  struct prov_text text = {space, 0, sizeof space};
  if (!at || !prov_string(json, 0, "alg", alg, sizeof alg) || strcmp(alg, "A256GCM")) return -1;
  const char *parts[] = {"reply|", p->request_id, "|", nonce};
  for (size_t i = 0; i < 4; i++) prov_add(&text, parts[i]);
  prov_mac(p, p->k_seal, 32, &text, key);
  size_t length = (size_t)(json->token[at].end - json->token[at].start);
  memmove(payload, payload + json->token[at].start, length);
  long count = prov_decode64(payload, length);
  if (count < 12 + 16) return -1;
  text.length = 0;
  const char *about[] = {"prov/v1 reply|", p->factory.user, "|", p->factory.client_id};
  for (size_t i = 0; i < 4; i++) prov_add(&text, about[i]);
  uint8_t *octets = (uint8_t *)payload;
  if (!prov_fits(&text) ||
      p->io->open_gcm(p->io->caller, key, octets, space, octets + count - 16, octets + 12, (size_t)count - 28))
    return -1;
  memmove(payload, payload + 12, (size_t)count - 28);
  return count - 28;
}
#else
#define prov_is_proved(p, json, nonce, reason) 0
#define prov_open(p, json, payload, nonce) -1
#endif

/* --- the machine ---------------------------------------------------------------------------------------------------- */

static void prov_send(struct provision *p, uint32_t now);

static void prov_tell(struct provision *p, const char *step, const char *detail) { p->io->tell(p->io->caller, step, detail); }

static void prov_hang_up(struct provision *p) {
  p->up = 0;
  p->io->disconnect(p->io->caller);
}

static void prov_pause(struct provision *p, uint64_t milliseconds, enum provision_state state, uint32_t now) {
  char text[16];
  struct prov_text detail = {text, 0, sizeof text};
  prov_add_number(&detail, (uint32_t)milliseconds);
  prov_tell(p, "pause, ms:", text);
  if (milliseconds > 60000) prov_hang_up(p);
  p->state = state;
  p->due = now + (uint32_t)milliseconds;
}

static uint64_t prov_random_part(struct provision *p, uint64_t milliseconds) {
  uint32_t number = 0;
  if (p->io->random(p->io->caller, (uint8_t *)&number, sizeof number)) return milliseconds;
  return milliseconds * number >> 32;
}

static uint64_t prov_jittered(struct provision *p, unsigned attempt) {
  uint64_t limit = (uint64_t)p->factory.first_pause_ms << (attempt < 16 ? attempt : 16);
  return prov_random_part(p, limit < p->factory.longest_pause_ms ? limit : p->factory.longest_pause_ms);
}

static void prov_back_off(struct provision *p, uint32_t now) {
  uint64_t pause = prov_jittered(p, p->attempt);
  if (p->attempt < 16) p->attempt++;
  prov_pause(p, pause, PROVISION_PAUSING, now);
}

static void prov_begin(struct provision *p, uint8_t asks, uint32_t now) {
  p->asks = asks;
  p->attempt = p->silent = 0;
  memset(p->nonces, 0, sizeof p->nonces);
  if (asks == PROVISION_CLAIM) {
    uint8_t octets[9];
    p->io->random(p->io->caller, octets, sizeof octets);
    memcpy(p->request_id, "r-", 2);
    prov_encode64(octets, sizeof octets, p->request_id + 2);
    for (char *at = p->request_id; *at; at++)
      if (*at == '_') *at = '.'; /* the grammar of a requestId has no underscore */
  } else {
    memcpy(p->request_id, p->credential.request_id, sizeof p->request_id - 1);
  }
  prov_send(p, now);
}

static void prov_log_in(struct provision *p) {
  prov_hang_up(p);
  p->state = PROVISION_LOGGING_IN;
  p->io->login(p->io->caller, &p->credential);
}

static void prov_topic(struct provision *p, const char *last, char *space, size_t capacity) {
  struct prov_text text = {space, 0, capacity};
  const char *parts[] = {"prov/v1/", p->factory.user, "/", p->factory.client_id, "/", last};
  for (size_t i = 0; i < 6; i++) prov_add(&text, parts[i]);
}

static void prov_write(struct provision *p, const char *nonce, struct prov_text *text) {
  const char *result = p->asks == PROVISION_STORED ? "stored" : "failed";
  prov_add(text, "{\"requestId\":\"");
  prov_add(text, p->request_id);
  if (p->asks == PROVISION_CLAIM) {
    prov_add(text, "\",\"maxReply\":");
    prov_add_number(text, PROVISION_BUFFER);
  } else {
    prov_add(text, "\",\"generation\":");
    prov_add_number(text, p->credential.generation);
    prov_add(text, ",\"result\":\"");
    prov_add(text, result);
    prov_add(text, "\"");
  }
  if (p->factory.plain) {
    prov_add(text, ",\"activationKey\":\"");
    prov_add_key(text, p->factory.activation_key);
  }
#ifndef PROVISION_PLAIN_ONLY
  else {
    char space[200], proof[45];
    uint8_t mac[32];
    struct prov_text said = {space, 0, sizeof space};
    const char *parts[] = {p->asks == PROVISION_CLAIM ? "request|" : "ack|", p->request_id, "|", nonce, "|"};
    for (size_t i = 0; i < 5; i++) prov_add(&said, parts[i]);
    if (p->asks == PROVISION_CLAIM) {
      prov_add(&said, "|||"); /* no sealTo, CSR, accept, alg */
    } else {
      prov_add_number(&said, p->credential.generation);
      prov_add(&said, "|");
      prov_add(&said, result);
      prov_add(&said, "|");
    }
    prov_mac(p, p->k_auth, 32, &said, mac);
    prov_encode64(mac, 32, proof);
    const char *rest[] = {",\"nonce\":\"", nonce, "\",\"proof\":\"", proof};
    for (size_t i = 0; i < 4; i++) prov_add(text, rest[i]);
  }
#endif
  prov_add(text, "\"}");
}

static void prov_send(struct provision *p, uint32_t now) {
  if (!p->up) {
    p->state = PROVISION_CONNECTING;
    p->due = now + 10000;
    if (p->io->connect(p->io->caller)) prov_back_off(p, now);
    return;
  }
  uint8_t octets[24];
  char topic[300], *nonce = p->nonces[p->nonce++ & 3];
  struct prov_text text = {p->buffer, 0, sizeof p->buffer};
  p->io->random(p->io->caller, octets, sizeof octets);
  prov_encode64(octets, sizeof octets, nonce);
  prov_write(p, nonce, &text);
  prov_topic(p, p->asks == PROVISION_CLAIM ? "request" : "ack", topic, sizeof topic);
  prov_tell(p, p->asks == PROVISION_CLAIM ? "request" : "ack", p->request_id);
  if (!prov_fits(&text) || p->io->publish(p->io->caller, topic, p->buffer, text.length)) {
    prov_hang_up(p);
    prov_back_off(p, now);
    return;
  }
  p->state = PROVISION_WAITING;
  p->due = now + p->factory.reply_ms;
}

static int prov_read_offer(struct provision *p, const char *text, size_t length, struct provision_credential *c) {
  struct prov_json json;
  char word[16];
  if (!prov_parse(&json, text, length)) return 0;
  int credentials = prov_find(&json, 0, "credentials"), broker = prov_find(&json, 0, "broker");
  int topics = prov_find(&json, 0, "topics"), publish = topics ? prov_find(&json, topics, "publish") : 0;
  memset(c, 0, sizeof *c);
  if (publish && json.token[publish].type == JSMN_ARRAY && json.token[publish].size &&
      !prov_text_at(&json, publish + 1, c->publish, sizeof c->publish))
    return 0;
  if (prov_find(&json, broker, "ca") && broker && !prov_string(&json, broker, "ca", c->ca, sizeof c->ca)) return 0;
  return credentials && broker && prov_string(&json, 0, "reason", word, sizeof word) && !strcmp(word, "offer") &&
         prov_string(&json, credentials, "type", word, sizeof word) && !strcmp(word, "password") &&
         prov_string(&json, 0, "requestId", c->request_id, sizeof c->request_id) &&
         prov_number(&json, 0, "generation", &c->generation) && c->generation &&
         prov_string(&json, credentials, "clientId", c->client_id, sizeof c->client_id) &&
         !strcmp(c->client_id, p->factory.client_id) &&
         prov_string(&json, credentials, "username", c->username, sizeof c->username) && *c->username &&
         prov_string(&json, credentials, "password", c->password, sizeof c->password) && *c->password &&
         prov_string(&json, broker, "url", c->url, sizeof c->url) && !strncmp(c->url, "mqtt", 4) &&
         prov_string(&json, broker, "account", c->account, sizeof c->account);
}

static void prov_take_offer(struct provision *p, const char *text, size_t length, uint32_t now) {
  if (!prov_read_offer(p, text, length, &p->credential) || strcmp(p->credential.request_id, p->request_id)) return;
  if (length > sizeof p->buffer || p->io->store(p->io->caller, text, length) ||
      p->io->load(p->io->caller, p->buffer, sizeof p->buffer) != length || memcmp(p->buffer, text, length)) {
    prov_tell(p, "storage failed", "");
    prov_back_off(p, now);
    return;
  }
  prov_tell(p, "stored", "");
  p->refused = p->unreached = 0;
  prov_log_in(p);
}

static void prov_finish(struct provision *p) {
  if (p->io->confirm(p->io->caller)) prov_tell(p, "storage failed", "");
  prov_hang_up(p);
  p->state = PROVISION_DONE;
  prov_tell(p, "confirmed", "");
}

static int prov_is_one_of(const char *word, const char *words) { /* `words` begin and end with a blank */
  const char *found = strstr(words, word);
  return found && found[-1] == ' ' && found[strlen(word)] == ' ';
}

void provision_message(struct provision *p, char *payload, size_t length, uint32_t now) {
  struct prov_json json;
  char request_id[65], reason[24], nonce[45] = "";
  if (p->state != PROVISION_WAITING && p->state != PROVISION_PAUSING) return;
  if (!prov_parse(&json, payload, length) || !prov_string(&json, 0, "reason", reason, sizeof reason) || !*reason ||
      !prov_string(&json, 0, "requestId", request_id, sizeof request_id) || strcmp(request_id, p->request_id))
    return;
  if (!p->factory.plain) {
    int ours = 0;
    if (!prov_string(&json, 0, "nonce", nonce, sizeof nonce) || !*nonce) return;
    for (int i = 0; i < 4; i++) ours |= !strcmp(nonce, p->nonces[i]);
    if (!ours) return;
  }
  prov_tell(p, "answer", reason);
  p->silent = 0;
  if (p->asks == PROVISION_CLAIM && !strcmp(reason, "offer")) {
    long count = p->factory.plain ? (long)length : prov_open(p, &json, payload, nonce);
    if (count > 0) prov_take_offer(p, payload, (size_t)count, now);
    return;
  }
  int proved = prov_is_proved(p, &json, nonce, reason), counts = proved || p->factory.plain;
  uint32_t after = 0;
  prov_number(&json, 0, "retryAfter", &after);
  if (proved) memset(p->nonces, 0, sizeof p->nonces); /* what still comes for these is a repetition */
  if (counts && p->asks == PROVISION_STORED && prov_is_one_of(reason, " confirmed noted ")) {
    /* Forget before the mark: cut here, a device without a login knows that it was told so. */
    if (proved && prov_true(&json, "forget") && !p->io->forget(p->io->caller)) prov_tell(p, "forgot the login", "");
    prov_finish(p);
  } else if (counts && (!strcmp(reason, "superseded") || (p->asks == PROVISION_FAILED && !strcmp(reason, "noted")))) {
    if (p->asks != PROVISION_CLAIM) p->io->drop(p->io->caller);
    prov_begin(p, PROVISION_CLAIM, now);
  } else if (proved && prov_is_one_of(reason, " already-provisioned expired abandoned bad-request bad-csr unsupported too-large ")) {
    memcpy(p->reason, reason, sizeof p->reason);
    p->state = PROVISION_STOPPED;
    prov_hang_up(p);
  } else if (after >= 1 && after <= 86400) {
    uint64_t pause = (uint64_t)after * 1000;
    if (proved) p->attempt = 0;
    else if (pause > p->factory.longest_pause_ms) pause = p->factory.longest_pause_ms; /* it may be anybody's */
    prov_pause(p, pause + prov_random_part(p, pause / 2), PROVISION_PAUSING, now);
  } else if (p->state == PROVISION_WAITING) {
    prov_back_off(p, now);
  }
}

void provision_start(struct provision *p, const struct provision_io *io, const struct provision_factory *factory, uint32_t now) {
  memset(p, 0, sizeof *p);
  p->io = io;
  p->factory = *factory;
  if (!p->factory.reply_ms) p->factory.reply_ms = 10000;
  if (!p->factory.first_pause_ms) p->factory.first_pause_ms = 5000;
  if (!p->factory.longest_pause_ms) p->factory.longest_pause_ms = 300000;
#ifndef PROVISION_PLAIN_ONLY
  if (p->factory.has_login) {
    prov_derive(p, "prov/v1 auth|", p->k_auth);
    prov_derive(p, "prov/v1 seal|", p->k_seal);
  }
#endif
  size_t length = io->load(io->caller, p->buffer, sizeof p->buffer);
  if (length && prov_read_offer(p, p->buffer, length, &p->credential)) {
    if (io->is_confirmed(io->caller) || !factory->has_login) p->state = PROVISION_DONE;
    else prov_log_in(p);
  } else if (factory->has_login) {
    prov_begin(p, PROVISION_CLAIM, now);
  } else {
    memcpy(p->reason, "no login", 9);
    p->state = PROVISION_STOPPED;
  }
}

void provision_connected(struct provision *p, uint32_t now) {
  char topic[300];
  prov_topic(p, "reply", topic, sizeof topic);
  if (p->io->subscribe(p->io->caller, topic)) provision_lost(p, now);
}

void provision_subscribed(struct provision *p, uint32_t now) {
  p->up = 1;
  p->silent = 0;
  if (p->state == PROVISION_CONNECTING) prov_send(p, now);
}

void provision_lost(struct provision *p, uint32_t now) {
  prov_hang_up(p);
  if (p->state == PROVISION_CONNECTING || p->state == PROVISION_WAITING) prov_back_off(p, now);
}

void provision_login(struct provision *p, enum provision_login result, uint32_t now) {
  if (p->state != PROVISION_LOGGING_IN) return;
  prov_tell(p, result == PROVISION_ACCEPTED ? "logged in" : "no login", "");
  if (result == PROVISION_REFUSED) p->refused++;
  if (result == PROVISION_UNREACHABLE) p->unreached++; /* says nothing about the credential */
  if (p->refused == 3) prov_begin(p, PROVISION_FAILED, now);
  else if (result == PROVISION_ACCEPTED || p->unreached == 3) prov_begin(p, PROVISION_STORED, now);
  else prov_pause(p, prov_jittered(p, p->refused + p->unreached - 1u), PROVISION_RESTING, now);
}

void provision_tick(struct provision *p, uint32_t now) {
  if ((int32_t)(now - p->due) < 0) return;
  switch (p->state) {
    case PROVISION_CONNECTING: provision_lost(p, now); break;
    case PROVISION_WAITING:
      if (++p->silent >= 2) prov_hang_up(p); /* it may be open at this end only */
      prov_back_off(p, now);
      break;
    case PROVISION_PAUSING: prov_send(p, now); break;
    case PROVISION_RESTING: prov_log_in(p); break;
    default: break;
  }
}
#endif
