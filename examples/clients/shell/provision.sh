#!/usr/bin/env bash
# Get this device its own MQTT credentials: shell over mosquitto_rr, openssl and jq, in one file.
#
#   provision.sh DIRECTORY
#
# DIRECTORY holds device.json, what the factory wrote, and later the two slots for the credential. Runs until the device
# works under its new identity; may be killed and started again at any point. Ends with 3 where only a change of firmware
# or an operator helps.
#
# Passwords and long-lived keys go through files of mode 0600 and pipes, never through arguments of a program, which
# everybody on the machine can read; HMAC is therefore built from SHA-256 here, since openssl takes its key in arguments alone.
# The one exception is the key of one sealed reply, which opens that reply only: openssl enc has no other way.
set -euo pipefail
umask 077
export LC_ALL=C
cd "$1"
DIR=$PWD

tell() { printf '%s\n' "$*" >&2; }
factory() { jq -r "$1 // empty" device.json; }
stop() { tell "stopped: $1"; exit 3; }

USER_NAME=$(factory .user) CLIENT=$(factory .clientId) MODE=$(factory .mode)
HOST=$(factory .host) PORT=$(factory .port) CA=$(factory .ca)
seconds() { jq -r "((.times.$1 // $2) / 1000)" device.json; }
REPLY_TIME=$(seconds replyMs 10000) FIRST_PAUSE=$(seconds firstPauseMs 5000) LONGEST_PAUSE=$(seconds longestPauseMs 300000)
ROOT=prov/v1/$USER_NAME/$CLIENT

# --- storage: two slots and a mark; each file is on disk before the next thing happens ---------------------------------

write() { # NAME: standard input becomes the file, whole or not at all
  cat >"$1.new" && sync "$1.new" && mv "$1.new" "$1" && sync .
}
current() { [ -s current ] && cat "slot-$(cat current)"; }
store() { # CREDENTIAL: write the free slot, read it back, make it current
  local free=0
  [ "$(cat current 2>/dev/null)" = 0 ] && free=1
  printf '%s' "$1" | write "slot-$free"
  [ "$(cat "slot-$free")" = "$1" ] || stop "the slot does not hold what was written"
  printf %s "$free" | write current
}
forget() { jq 'del(.password, .activationKey)' device.json | write device.json; }

# --- keys: everything is hex, since a shell variable cannot hold a zero byte -------------------------------------------

hex() { od -An -v -tx1 | tr -d ' \n'; }
bytes() { printf '%b' "$(sed 's/../\\x&/g')"; }
base64url() { bytes | openssl base64 -A | tr '+/' '-_' | tr -d '='; }
from_base64url() { # to hex
  local text
  text=$(tr -- '-_' '+/')
  while [ $((${#text} % 4)) -ne 0 ]; do text=$text=; done
  printf %s "$text" | openssl base64 -d -A | hex
}
sha256() { openssl dgst -sha256 -binary | hex; }
hmac() { # KEY, in hex: HMAC-SHA256 (RFC 2104) of standard input, in hex
  local key=$1 i inner='' outer=''
  while [ ${#key} -lt 128 ]; do key=${key}00; done
  for ((i = 0; i < 128; i += 2)); do
    printf -v inner '%s%02x' "$inner" $((16#${key:i:2} ^ 0x36))
    printf -v outer '%s%02x' "$outer" $((16#${key:i:2} ^ 0x5c))
  done
  inner=$({ bytes <<<"$inner"; cat; } | sha256)
  bytes <<<"$outer$inner" | sha256
}
derive() { # K_auth and K_seal
  local key
  key=$(factory .activationKey | tr -d '\n' | hex)
  [ ${#key} -le 128 ] || key=$(bytes <<<"$key" | sha256)
  AUTH=$(printf '%s' "prov/v1 auth|$USER_NAME|$CLIENT" | hmac "$key")
  SEAL=$(printf '%s' "prov/v1 seal|$USER_NAME|$CLIENT" | hmac "$key")
}
is_proved() { # REPLY
  local said expected
  said=$(jq -r '["reply", .requestId, .nonce, .code, .reason, .generation // "", .retryAfter // "",
    (if .forget == true then "true" else "" end)] | map(tostring) | join("|")' <<<"$1")
  expected=$(printf '%s' "$said" | hmac "$AUTH" | base64url)
  [ "$(jq -r '.proof // ""' <<<"$1")" = "$expected" ]
}
open_offer() { # REPLY: print the offer inside; fail unless it was sealed for us as we asked
  if [ "$MODE" = plain ]; then printf %s "$1"; return; fi
  local request nonce sealed body about key
  [ "$(jq -r .alg <<<"$1")" = A256CTR-HS256 ] || return 1
  request=$(jq -r .requestId <<<"$1") nonce=$(jq -r .nonce <<<"$1")
  sealed=$(jq -r .sealed <<<"$1" | tr -d '\n' | from_base64url)
  [ ${#sealed} -gt 96 ] || return 1
  body=${sealed:0:${#sealed}-64}
  about=$(printf '%s' "prov/v1 reply|$USER_NAME|$CLIENT|" | hex)
  key=$(printf '%s' "mac|$request|$nonce" | hmac "$SEAL")
  [ "$(bytes <<<"$about$body" | hmac "$key")" = "${sealed: -64}" ] || return 1
  key=$(printf '%s' "reply|$request|$nonce" | hmac "$SEAL")
  bytes <<<"${body:32}" | openssl enc -d -aes-256-ctr -K "$key" -iv "${body:0:32}" -nosalt
}

# --- MQTT: the login goes through the clients' own settings file -------------------------------------------------------

login() { # CLIENT USER PASSWORD: for the mosquitto clients started after it
  mkdir -p login
  printf '%s\n' "-i $1" "-u $2" "-P $3" | tee login/mosquitto_rr >login/mosquitto_pub
  export XDG_CONFIG_HOME=$DIR/login
}
message() { # TOPIC REQUEST NONCE [GENERATION RESULT]: what to send
  local proof said key
  if [ "$MODE" = plain ]; then
    key=$(factory .activationKey)
    said=$(printf '{"requestId":"%s","activationKey":%s' "$2" "$(jq -R . <<<"$key")")
  elif [ "$1" = request ]; then
    proof=$(printf '%s' "request|$2|$3||||A256CTR-HS256" | hmac "$AUTH" | base64url)
    said=$(printf '{"requestId":"%s","nonce":"%s","proof":"%s","alg":"A256CTR-HS256"' "$2" "$3" "$proof")
  else
    proof=$(printf '%s' "ack|$2|$3|$4|$5|" | hmac "$AUTH" | base64url)
    said=$(printf '{"requestId":"%s","nonce":"%s","proof":"%s"' "$2" "$3" "$proof")
  fi
  [ "$1" = request ] || said=$said,$(printf '"generation":%s,"result":"%s"' "$4" "$5")
  printf '%s}' "$said"
}
random() { # 0 … 1, six digits
  printf '0.%06d' $((16#$(openssl rand -hex 3) * 1000000 / 16777216))
}
# mosquitto_rr subscribes, waits for SUBACK, publishes, and prints the first message that comes back. Its time runs from the
# start: a second more for connecting.
ask() { # TOPIC REQUEST NONCE [GENERATION RESULT]: print the reply, nothing if there was none
  local tls=()
  [ -z "$CA" ] || tls=(--cafile "$CA")
  login "$CLIENT" "$USER_NAME" "$(factory .password)"
  printf -- '-m %s\n' "$(message "$@")" >>login/mosquitto_rr # mosquitto_rr 2.0 sends nothing for -f and -s
  mosquitto_rr -V 311 -h "$HOST" -p "$PORT" "${tls[@]}" -q 1 -W $((${REPLY_TIME%.*} + 1)) \
    -t "$ROOT/$1" -e "$ROOT/reply" 2>/dev/null || true
}

exchange() { # TOPIC REQUEST [GENERATION RESULT]: repeat until OFFER or REPLY ends it; 4: superseded
  local attempt=0 nonce proved reason after pause
  while :; do
    nonce=$(openssl rand -hex 16)
    tell "$1 $2"
    REPLY=$(ask "$1" "$2" "$nonce" "${@:3}" | tr -d '\0')
    after=0 proved=
    if [ -n "$REPLY" ] && jq -e --arg r "$2" --arg n "$nonce" --arg m "$MODE" \
      'type == "object" and .requestId == $r and ($m == "plain" or .nonce == $n)' <<<"$REPLY" >/dev/null 2>&1; then
      reason=$(jq -r .reason <<<"$REPLY")
      tell "answer $(jq -r .code <<<"$REPLY") $reason"
      if [ "$MODE" != plain ] && is_proved "$REPLY"; then proved=yes; fi
      case $1-$reason-${proved:-$MODE} in
        request-offer-*) if OFFER=$(open_offer "$REPLY") && is_offer "$2"; then return 0; fi ;;
        *-superseded-yes | *-superseded-plain) return 4 ;;
        ack-confirmed-yes | ack-confirmed-plain | ack-noted-yes | ack-noted-plain) PROVED=$proved; return 0 ;;
        *-already-provisioned-yes | *-expired-yes | *-abandoned-yes | *-bad-*-yes | *-unsupported-yes | *-too-large-yes)
          stop "$reason" ;;
      esac
      after=$(jq -r '.retryAfter | if type == "number" and . >= 1 and . <= 86400 then floor else 0 end' <<<"$REPLY")
      # Who cannot prove itself may slow us down, but not for long.
      [ -n "$proved" ] || after=$(jq -n "[$after, $LONGEST_PAUSE] | min")
      [ -z "$proved" ] || attempt=0
    fi
    if [ "$after" != 0 ]; then
      pause=$(jq -n "$after * (1 + $(random) / 2)")
    else
      pause=$(jq -n "$(random) * ([$LONGEST_PAUSE, $FIRST_PAUSE * $((1 << attempt))] | min)")
      attempt=$((attempt < 16 ? attempt + 1 : 16))
    fi
    tell "pause $pause s"
    sleep "$pause"
  done
}
is_offer() { # REQUEST: whether OFFER is one for us
  jq -e --arg r "$1" --arg c "$CLIENT" '.requestId == $r and .reason == "offer" and .credentials.type == "password"
    and .credentials.clientId == $c and (.credentials.username | length) > 0 and (.credentials.password | length) > 0
    and (.generation | type) == "number" and (.broker.url | test("^mqtts?://"))
    and (.topics.publish | length) > 0' <<<"$OFFER" >/dev/null 2>&1
}

# --- the new identity -------------------------------------------------------------------------------------------------

log_in() { # connect to the device broker and say hello: 0 in, 1 away, 2 refused
  local url secure host port tls=() code
  url=$(jq -r .broker.url <<<"$CREDENTIAL")
  secure=${url%%://*} host=${url#*://}
  port=1883 && [ "$secure" = mqtt ] || port=8883
  case $host in *:*) port=${host##*:} host=${host%:*} ;; esac
  host=${host#[} host=${host%]}
  if [ "$secure" = mqtts ]; then
    tls=(--capath /etc/ssl/certs)
    if jq -er .broker.ca <<<"$CREDENTIAL" >login/ca.pem 2>/dev/null; then tls=(--cafile "$DIR/login/ca.pem"); fi
  fi
  login "$CLIENT" "$(jq -r .credentials.username <<<"$CREDENTIAL")" "$(jq -r .credentials.password <<<"$CREDENTIAL")"
  code=0
  mosquitto_pub -V 311 -h "$host" -p "$port" "${tls[@]}" -q 1 -m hello \
    -t "$(jq -r '.topics.publish[0] | gsub("[#+]"; "hello")' <<<"$CREDENTIAL")" 2>/dev/null || code=$?
  case $code in 0) return 0 ;; 2 | 4 | 5) return 2 ;; *) return 1 ;; esac # 2, 4, 5: what CONNACK said
}
try_login() { # 1 only when the device broker itself said no three times
  local refused=0 unreached=0 code
  while [ $refused -lt 3 ] && [ $unreached -lt 3 ]; do
    code=0; log_in || code=$?
    case $code in 0) tell "logged in"; return 0 ;; 2) refused=$((refused + 1)) ;; *) unreached=$((unreached + 1)) ;; esac
    tell "no login"
    sleep "$(jq -n "$(random) * $FIRST_PAUSE * $((1 << (refused + unreached - 1)))")"
  done
  [ $refused -lt 3 ]
}

CREDENTIAL=$(current || true)
while [ "$(jq -r '.confirmed // false' <<<"${CREDENTIAL:-null}")" != true ] && [ -n "$(factory .password)" ]; do
  derive
  if [ -z "$CREDENTIAL" ]; then
    code=0; exchange request "r-$(openssl rand -hex 4)" || code=$?
    [ $code = 0 ] || continue
    CREDENTIAL=$OFFER
    store "$CREDENTIAL"
    tell "stored generation $(jq .generation <<<"$CREDENTIAL")"
  fi
  result=stored
  try_login || result=failed
  code=0; exchange ack "$(jq -r .requestId <<<"$CREDENTIAL")" "$(jq .generation <<<"$CREDENTIAL")" $result || code=$?
  if [ $code = 4 ] || [ $result = failed ]; then
    printf '' | write current
    CREDENTIAL=
    continue
  fi
  if [ -n "$PROVED" ] && [ "$(jq -r .forget <<<"$REPLY")" = true ]; then
    forget # before the mark: cut here, a device without a login knows that it was told so
    rm -f login/*
    tell "forgot the provisioning login"
  fi
  CREDENTIAL=$(jq -c '.confirmed = true' <<<"$CREDENTIAL")
  store "$CREDENTIAL"
  tell confirmed
done
[ -n "$CREDENTIAL" ] || stop "there is neither a credential nor a provisioning login"
until try_login; do :; done
rm -f login/*
tell online
