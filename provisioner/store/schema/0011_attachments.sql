-- What devices get with their credential: files, kept in pieces so that none holds up a commit.
CREATE TABLE attachment (
    id         TEXT PRIMARY KEY,
    account_id INTEGER REFERENCES account (id),
    name       TEXT NOT NULL,
    size       INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    created_on INTEGER NOT NULL,
    created_by INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE attachment_piece (
    attachment_id TEXT NOT NULL,
    number        INTEGER NOT NULL,
    content       BLOB NOT NULL,
    PRIMARY KEY (attachment_id, number)
);

-- Tickets that were used, until they would have ended anyway.
CREATE TABLE used_ticket (
    nonce      TEXT PRIMARY KEY,
    expires_on INTEGER NOT NULL
) WITHOUT ROWID;

-- JSON, see `attachments`; NULL: none.
ALTER TABLE request ADD COLUMN attachments TEXT;
