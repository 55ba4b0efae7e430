-- What ProvisionEntities and imports keep beside a request: whose device it is, and in which batch it came.

CREATE TABLE user_group (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    name       TEXT NOT NULL,
    UNIQUE (account_id, name)
);

-- A person, by e-mail address in small letters.
CREATE TABLE contact (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    email      TEXT NOT NULL,
    first_name TEXT NOT NULL,
    last_name  TEXT NOT NULL,
    custom1    TEXT NOT NULL,
    custom2    TEXT NOT NULL,
    custom3    TEXT NOT NULL,
    UNIQUE (account_id, email)
);

CREATE TABLE device (
    device_id   TEXT PRIMARY KEY,
    request_id  INTEGER NOT NULL UNIQUE REFERENCES request (id) ON DELETE CASCADE,
    contact_id  INTEGER REFERENCES contact (id),
    group_id    INTEGER NOT NULL REFERENCES user_group (id),
    policy_name TEXT NOT NULL,
    storage_gb  INTEGER NOT NULL,
    custom1     TEXT NOT NULL,
    custom2     TEXT NOT NULL,
    custom3     TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX device_by_contact ON device (contact_id) WHERE contact_id IS NOT NULL;
CREATE INDEX device_by_group ON device (group_id);

CREATE TABLE batch (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    account_id INTEGER REFERENCES account (id),
    created_on INTEGER NOT NULL,
    created_by INTEGER NOT NULL
);

-- `former`: JSON of what an update replaced; NULL: the batch made the device. `optlock`: what the batch left it at.
CREATE TABLE batch_row (
    batch_id   INTEGER NOT NULL REFERENCES batch (id),
    number     INTEGER NOT NULL,
    device_id  TEXT NOT NULL,
    request_id INTEGER NOT NULL,
    optlock    INTEGER NOT NULL,
    former     TEXT,
    PRIMARY KEY (batch_id, number)
) WITHOUT ROWID;

-- Activation e-mails that are still to be sent.
CREATE TABLE mail (
    request_id INTEGER PRIMARY KEY REFERENCES request (id) ON DELETE CASCADE,
    email      TEXT NOT NULL,
    due_on     INTEGER NOT NULL,
    attempts   INTEGER NOT NULL
);
CREATE INDEX mail_due ON mail (due_on);
