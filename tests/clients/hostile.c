/* provision.h against messages that nobody honest sends: length (4 bytes, little endian) and payload, again and again, from
 * standard input. `@R` and `@N` in a payload become the requestId and the nonce that are outstanding, so that it is looked at.
 * Argument `plain` or `proof`. Ends with 1 if anything was believed that no key has proved. */
#define PROVISION_BUFFER 1024
#define PROVISION_CA 64
#define PROVISION_TOKENS 48
#define PROVISION_IMPLEMENTATION
#include "provision.h"

#include <mbedtls/md.h>
#include <stdio.h>
#include <stdlib.h>

static int believed, randoms;

static int nothing(void *c) { (void)c; return 0; }
static void quiet(void *c) { (void)c; }
static int topic(void *c, const char *t) { (void)c, (void)t; return 0; }
static int publish(void *c, const char *t, const char *p, size_t n) { (void)c, (void)t, (void)p, (void)n; return 0; }
static void login(void *c, const struct provision_credential *credential) { (void)c, (void)credential; }
static int store(void *c, const char *o, size_t n) { (void)c, (void)o, (void)n; believed = 1; return 0; }
static size_t load(void *c, char *o, size_t n) { (void)c, (void)o, (void)n; return 0; }
static int change(void *c) { (void)c; believed = 1; return 0; }
static int fill(void *c, uint8_t *o, size_t n) { (void)c; while (n--) *o++ = (uint8_t)randoms++; return 0; }
static int hmac(void *c, const uint8_t *k, size_t kn, const char *t, size_t n, uint8_t mac[32]) {
  (void)c;
  return mbedtls_md_hmac(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), k, kn, (const uint8_t *)t, n, mac);
}
static int no_seal(void *c, const uint8_t *k, const uint8_t *i, const char *a, const uint8_t *tag, uint8_t *t, size_t n) {
  (void)c, (void)k, (void)i, (void)a, (void)tag, (void)t, (void)n;
  return -1;
}
static void tell(void *c, const char *s, const char *d) { (void)c, (void)s, (void)d; }

static char *insert(char *text, size_t *length, const char *mark, const char *word) {
  for (char *at; (at = memmem(text, *length, mark, 2));) {
    size_t before = (size_t)(at - text), more = strlen(word);
    char *fresh = malloc(*length - 2 + more);
    memcpy(fresh, text, before);
    memcpy(fresh + before, word, more);
    memcpy(fresh + before + more, at + 2, *length - before - 2);
    *length = *length - 2 + more;
    free(text);
    text = fresh;
  }
  return text;
}

int main(int count, char **arguments) {
  static const struct provision_io io = {NULL, nothing, topic, publish, quiet, login, store, load, change, change,
                                         nothing, change, fill, hmac, no_seal, tell};
  int plain = count > 1 && !strcmp(arguments[1], "plain"), messages = 0;
  const struct provision_factory factory = {"factory", "dev-1", "0123456789ABCDEFGHIJKLMNOPQRSTUV", plain, 1, 0, 0, 0};
  uint32_t size;
  for (; fread(&size, 4, 1, stdin) == 1; messages++) {
    static struct provision machine;
    size_t length = size;
    char *payload = malloc(length + !length); /* not a byte more, so that the sanitizer sees the first one beyond */
    if (fread(payload, 1, length, stdin) != length) return 2;
    believed = 0;
    provision_start(&machine, &io, &factory, 0);
    provision_connected(&machine, 0);
    provision_subscribed(&machine, 0);
    payload = insert(payload, &length, "@R", machine.request_id);
    payload = insert(payload, &length, "@N", machine.nonces[0]);
    provision_message(&machine, payload, length, 1);
    if (!plain && (believed || (machine.state != PROVISION_WAITING && machine.state != PROVISION_PAUSING))) return 1;
    if (machine.state == PROVISION_DONE || machine.state == PROVISION_STOPPED) return 1;
    if (machine.state == PROVISION_PAUSING && machine.due > 1 + 450000) return 1; /* longer than nobody may slow us down */
    free(payload);
  }
  printf("%d\n", messages);
  return 0;
}
