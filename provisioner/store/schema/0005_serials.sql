-- Serial numbers that a vendor knows of before there is a request for them (Exosite's models).

-- The vendor is the account: its name is unique in the installation, a model's name is unique per vendor.
CREATE TABLE model (
    id         INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    name       TEXT NOT NULL,
    user_id    INTEGER NOT NULL REFERENCES provision_user (id),
    created_on INTEGER NOT NULL,
    created_by INTEGER NOT NULL,
    UNIQUE (account_id, name)
);

CREATE TABLE serial (
    model_id      INTEGER NOT NULL REFERENCES model (id) ON DELETE CASCADE,
    serial_number TEXT NOT NULL,
    extra         TEXT NOT NULL,
    PRIMARY KEY (model_id, serial_number)
) WITHOUT ROWID;

-- A range is kept as it was given: whoever owns a block of MAC addresses has sixteen million of them.
CREATE TABLE serial_range (
    model_id INTEGER NOT NULL REFERENCES model (id) ON DELETE CASCADE,
    format   TEXT NOT NULL,
    length   INTEGER NOT NULL,
    casing   TEXT NOT NULL,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    PRIMARY KEY (model_id, format, length, casing, first, last)
) WITHOUT ROWID;
