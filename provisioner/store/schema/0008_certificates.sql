-- Certificates. Each row is an order that was committed before anything was signed: the same order, the same bytes.

ALTER TABLE request ADD COLUMN kind TEXT NOT NULL DEFAULT 'password';

-- Kept for ever, as credentials are: no serial and no device key is ever used for two generations.
CREATE TABLE certificate (
    serial        TEXT NOT NULL UNIQUE,
    device_broker TEXT NOT NULL,
    client_id     TEXT NOT NULL,
    generation    INTEGER NOT NULL,
    request_id    INTEGER NOT NULL,
    issuer        TEXT NOT NULL,
    key_id        TEXT NOT NULL UNIQUE,
    order_text    TEXT NOT NULL,
    not_before    INTEGER NOT NULL,
    not_after     INTEGER NOT NULL,
    revoked_on    INTEGER,
    reason        TEXT,
    UNIQUE (device_broker, client_id, generation)
);
CREATE INDEX certificate_revoked ON certificate (issuer, not_after) WHERE revoked_on IS NOT NULL;
