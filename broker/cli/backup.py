"""`provisioner backup` and `provisioner restore`: copies of the ledger, and the way back.

They work on the files: whoever may read them needs no token, and a backup needs no server and disturbs none.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from broker.cli.output import Failed, Json, print_fields, print_json, progress, say, where
from broker.cli.times import moment
from broker.datadir import DataDir, Unusable

if TYPE_CHECKING:
    from provisioner.epochs import Keyring
    from provisioner.store.backup import Inventory

backup_app = typer.Typer()
restore_app = typer.Typer()

File = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The backup.")]


@backup_app.command("backup")
def backup(ctx: typer.Context, file: File, *, as_json: Json = False) -> None:
    """Copy the ledger to a new file (mode 0600), while a server works on it or not.

    The file opens with the keys it names and with no others: keep a copy of them elsewhere.

    Example: provisioner backup /mnt/backups/ledger-monday.db
    """
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it
    from broker.parts import now  # noqa: PLC0415  # as above
    from provisioner.store.backup import back_up  # noqa: PLC0415  # as above

    place = where(ctx)
    directory = DataDir(root.load(place.config, place.data_dir).settings.data_dir)
    if not directory.ledger.exists():
        raise Failed(f"{directory.path} is not prepared yet: there is nothing to copy.")
    with progress("Copying") as advance:
        copied = back_up(directory.ledger, file, now(), advance)
    if as_json:
        print_json({"file": str(file)} | _told(copied))
        return
    print_fields({"file": file} | _shown(copied))
    say(f"It opens with {_names(copied)} and the pepper: keep copies of them, and of ca/, apart from it.")


@restore_app.command("restore")
def restore(
    ctx: typer.Context,
    file: File,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the ledger is replaced.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup in the place of the ledger, which is kept under another name. The server must be stopped.

    The next start retires offers that were not confirmed, and uses no user name that may have been used since.

    Example: provisioner restore /mnt/backups/ledger-monday.db
    """
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it
    from broker import wiring  # noqa: PLC0415  # as above
    from broker.keyring import open_keyring  # noqa: PLC0415  # as above
    from broker.lifetime import run  # noqa: PLC0415  # as above
    from broker.parts import now  # noqa: PLC0415  # as above
    from provisioner.store.backup import staged  # noqa: PLC0415  # as above

    place = where(ctx)
    settings = root.load(place.config, place.data_dir).settings
    directory = DataDir(settings.data_dir)
    directory.prepare()
    keyring = run(open_keyring(wiring.key_source(settings), directory, _no_new_key))
    moment_now = now()
    with progress("Checking") as advance, staged(file, directory.ledger, moment_now, advance) as found:
        _check_keys(found.restored, keyring)
        aside = directory.path / f"ledger-until-{datetime.fromtimestamp(moment_now / 1000, UTC):%Y%m%dT%H%M%SZ}.db"
        if not yes:
            _ask(found.restored, found.present)
        found.take_place(aside)
    kept = aside if aside.exists() else None
    if as_json:
        print_json({"kept": kept and str(kept)} | _told(found.restored))
        return
    say(f"The ledger is restored{f'; the former one is {kept}' if kept else ''}.")
    say(
        "The next start retires offers that were not confirmed. What was revoked or created since has to be done again."
    )


def _no_new_key() -> NoReturn:
    raise Unusable("There are no keys yet: put back those that belong to the backup, vault-N and pepper.")


def _check_keys(restored: Inventory, keyring: Keyring) -> None:
    from provisioner.epochs import check_at_hand  # noqa: PLC0415  # as above
    from provisioner.errors import Unavailable  # noqa: PLC0415  # as above

    try:
        check_at_hand(restored.epochs, restored.pepper_id, keyring)
    except Unavailable as error:
        raise Failed(f"This backup cannot be opened: {error.detail}.") from None


def _ask(restored: Inventory, present: Inventory | None) -> None:
    if not sys.stdin.isatty():
        raise Failed("Nobody can be asked here: --yes replaces the ledger without asking.")
    say(f"Backup: {_sentence(restored)}")
    say(f"Ledger now: {_sentence(present) if present else 'none that can be opened.'}")
    if not typer.confirm("Replace the ledger?", err=True):
        raise Failed("Nothing was changed.")


def _sentence(inventory: Inventory) -> str:
    changed = moment(inventory.changed_on or None) or "never"
    return f"{inventory.requests} requests, {inventory.credentials} credentials, last changed {changed}."


def _names(inventory: Inventory) -> str:
    return " and ".join(f"vault-{one.epoch} (id {one.key_id})" for one in inventory.needed) or "the keys at hand"


def _shown(inventory: Inventory) -> dict[str, Any]:
    return {
        "size": f"{inventory.size:,} bytes",
        "accounts": inventory.accounts,
        "requests": inventory.requests,
        "credentials": inventory.credentials,
        "last changed": moment(inventory.changed_on or None),
        "keys needed": _names(inventory),
    }


def _told(inventory: Inventory) -> dict[str, Any]:
    return {
        "size": inventory.size,
        "accounts": inventory.accounts,
        "requests": inventory.requests,
        "credentials": inventory.credentials,
        "changedOn": inventory.changed_on,
        "copiedOn": inventory.copied_on,
        "keys": [{"epoch": one.epoch, "keyId": one.key_id} for one in inventory.needed],
        "pepperId": inventory.pepper_id,
    }
