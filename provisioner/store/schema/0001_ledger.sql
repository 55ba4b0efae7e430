-- The ledger. Times are epoch milliseconds; what is secret is sealed text or a keyed hash, never clear.

CREATE TABLE account (
    id            INTEGER PRIMARY KEY,
    uid           TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL UNIQUE,
    display_name  TEXT NOT NULL,
    kind          TEXT NOT NULL,
    parent_id     INTEGER REFERENCES account (id),
    coupling      TEXT NOT NULL,
    device_broker TEXT NOT NULL,
    quota         INTEGER,
    created_on    INTEGER NOT NULL,
    created_by    INTEGER NOT NULL,
    modified_on   INTEGER NOT NULL,
    modified_by   INTEGER NOT NULL,
    optlock       INTEGER NOT NULL
);

CREATE TABLE provision_user (
    id            INTEGER PRIMARY KEY,
    account_id    INTEGER NOT NULL REFERENCES account (id),
    username      TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    created_on    INTEGER NOT NULL,
    created_by    INTEGER NOT NULL
);

CREATE TABLE token (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    role       TEXT NOT NULL,
    account_id INTEGER REFERENCES account (id),
    token_hash TEXT NOT NULL UNIQUE,
    created_on INTEGER NOT NULL
);

-- The request and its job in one row: they are one to one, and a claim reads both.
CREATE TABLE request (
    id                 INTEGER PRIMARY KEY,
    job_id             INTEGER NOT NULL,
    account_id         INTEGER NOT NULL REFERENCES account (id),
    client_id          TEXT NOT NULL,
    provision_user_id  INTEGER NOT NULL REFERENCES provision_user (id),
    device_broker      TEXT NOT NULL,
    status             TEXT NOT NULL,
    activates_on       INTEGER,
    expires_on         INTEGER,
    secure_url         INTEGER NOT NULL,
    coupling           TEXT NOT NULL,
    confirm            TEXT NOT NULL,
    confirm_time       INTEGER NOT NULL,
    configuration      TEXT NOT NULL,
    serial_number      TEXT,
    mac_address        TEXT,
    vendor             TEXT,
    brand              TEXT,
    model              TEXT,
    device_name        TEXT,
    forget             INTEGER NOT NULL,
    reuse_key          INTEGER NOT NULL,
    retry_max_attempts INTEGER NOT NULL,
    keys_sealed        TEXT,
    phase              TEXT NOT NULL,
    generation         INTEGER NOT NULL,
    proved_generation  INTEGER,
    retry_count        INTEGER NOT NULL,
    rotate_wanted      INTEGER NOT NULL,
    stop_wanted        INTEGER NOT NULL,
    skipped            INTEGER NOT NULL,
    progress           TEXT,
    start_on           INTEGER,
    last_refusal       TEXT,
    job_status         TEXT NOT NULL,
    created_on         INTEGER NOT NULL,
    created_by         INTEGER NOT NULL,
    modified_on        INTEGER NOT NULL,
    modified_by        INTEGER NOT NULL,
    optlock            INTEGER NOT NULL,
    job_optlock        INTEGER NOT NULL
);
-- A claim finds the newest request of (user, clientId).
CREATE INDEX request_by_claim ON request (provision_user_id, client_id, id);
CREATE INDEX request_by_client ON request (device_broker, client_id);
CREATE INDEX request_by_account ON request (account_id, id);
CREATE INDEX request_lapsing ON request (expires_on) WHERE phase = 'PENDING' AND expires_on IS NOT NULL;

-- One row per generation, kept for ever: generations never restart and names are never used again.
CREATE TABLE credential (
    device_broker  TEXT NOT NULL,
    client_id      TEXT NOT NULL,
    generation     INTEGER NOT NULL,
    request_id     INTEGER NOT NULL,
    account_name   TEXT NOT NULL,
    username       TEXT NOT NULL,
    coupling       TEXT NOT NULL,
    identity       TEXT NOT NULL,
    secret_sealed  TEXT,
    secret_hash    TEXT NOT NULL,
    state          TEXT NOT NULL,
    minted_on      INTEGER NOT NULL,
    confirm_before INTEGER NOT NULL,
    due_on         INTEGER,
    attempts       INTEGER NOT NULL,
    settled_on     INTEGER,
    PRIMARY KEY (device_broker, client_id, generation)
) WITHOUT ROWID;
CREATE UNIQUE INDEX credential_by_username ON credential (device_broker, username);
CREATE INDEX credential_by_request ON credential (request_id, generation);
CREATE INDEX credential_due ON credential (due_on) WHERE due_on IS NOT NULL;
-- Section 9, rule 5, kept by the database itself: one unproved and one proved generation at the most.
CREATE UNIQUE INDEX credential_unproved ON credential (device_broker, client_id)
    WHERE state IN ('MINTED', 'INSTALLED', 'OFFERED');
CREATE UNIQUE INDEX credential_proved ON credential (device_broker, client_id) WHERE state = 'CONFIRMED';

-- Rule 4: an authenticated requestId belongs to the generation it was first used for, while the request exists.
CREATE TABLE bound_request_id (
    request_id INTEGER NOT NULL,
    text       TEXT NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (request_id, text)
) WITHOUT ROWID;
