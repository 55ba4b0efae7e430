"""The list of planted bugs, and how one is tried.

1. A mutation is applied to a copy of the tree, never to the tree itself.
2. What it replaces must stand in its file exactly once: a mutation that no longer applies is an error, no success.
3. Each named test must fail by itself; one that passes is the finding.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COPIED = ("broker", "provisioner", "certs", "config", "tests", "pyproject.toml")
_FAILED = 1
"""pytest's exit code when tests ran and some failed."""

_SERVICE = "tests/provisioner/test_service.py"
_CERTIFICATES = "tests/provisioner/test_certificates.py"
_STORE = "tests/provisioner/test_store.py"
_JOBS = "tests/provisioner/test_jobs.py"
_LEARNING = "tests/broker/http/test_learning_routes.py"
_ATTACHMENTS = "tests/broker/http/test_attachments.py"
_WORLDS = "tests/simulation/test_simulation.py::test_no_rule_breaks_in_a_few_worlds"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`before` in `file` becomes `after`, which breaks what `rule` says; `tests` are those that must notice."""

    name: str
    rule: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "mint-each",
        "a repeated claim gets the same credential (3)",
        "provisioner/service.py",
        "        return await self._offer_again(claim, dossier, conversation, now, wanted)\n",
        "        return await self._mint(claim, dossier, conversation, now, wanted)\n",
        (f"{_SERVICE}::test_the_same_claim_gets_the_same_credential", _WORLDS),
    ),
    Mutation(
        "reply-before-install",
        "no offer before the credential works at the device broker (2)",
        "provisioner/service.py",
        "        if installed is None:\n            raise self._wait_for_install(credential)\n",
        "        if installed is None:\n            return offer\n",
        (
            f"{_SERVICE}::test_an_install_that_takes_long_is_waited_for_and_then_offered",
            f"{_SERVICE}::test_a_device_broker_that_is_away_is_tried_again",
            _WORLDS,
        ),
    ),
    Mutation(
        "reply-before-commit",
        "nothing leaves before it is committed (1)",
        "provisioner/store/sqlite.py",
        "        return await self._units.ask(unit)\n",
        "        self._units.ask(unit).add_done_callback(lambda done: done.exception())\n        return True\n",
        (
            f"{_STORE}::test_a_commit_that_fails_is_no_answer_and_the_next_one_works",
            f"{_STORE}::test_a_stale_unit_changes_nothing",
            _WORLDS,
        ),
    ),
    Mutation(
        "delete-instead-of-disable",
        "generations never restart and names are never used again (5)",
        "provisioner/store/sqlite.py",
        '                connection.execute(SQL["delete_bound"], {"id": before.id})\n',
        '                connection.execute(SQL["delete_bound"], {"id": before.id})\n'
        '                connection.execute("DELETE FROM credential WHERE request_id = ?", (before.id,))\n',
        (f"{_SERVICE}::test_generations_go_on_when_the_request_is_deleted_or_replaced", _WORLDS),
    ),
    Mutation(
        "burn-on-first-use",
        "a lost message never locks a device out (6)",
        "provisioner/service.py",
        "        request, credential = dossier.request, _there(dossier.credential)\n"
        "        wanted = wanted or await self._minting.wanted(claim, request.kind)\n",
        "        request, credential = dossier.request, _there(dossier.credential)\n"
        "        if credential.state is State.OFFERED:\n"
        '            raise Rejected(Reason.ALREADY_PROVISIONED, step="mint")\n'
        "        wanted = wanted or await self._minting.wanted(claim, request.kind)\n",
        (f"{_SERVICE}::test_the_same_claim_gets_the_same_credential", _WORLDS),
    ),
    Mutation(
        "requestids-forgotten",
        "a requestId of a retired generation changes nothing (4)",
        "provisioner/service.py",
        "        self._check_not_superseded(dossier)\n",
        "",
        (f"{_SERVICE}::test_an_unconfirmed_offer_is_retired_and_its_request_id_superseded", _WORLDS),
    ),
    Mutation(
        "limit-before-verify",
        "a right key is never refused because of others' failures (7)",
        "provisioner/authentication.py",
        '            self.refuse(claim, "claim", dossier, now)\n',
        '            self.refuse(claim, "claim", dossier, now)\n'
        "        origin = claim.origin\n"
        "        self._admission.check_failure(claim.user, claim.client_id, origin.source, origin.connection, now)\n",
        (f"{_SERVICE}::test_wrong_keys_are_slowed_down_and_the_right_one_never", _WORLDS),
    ),
    Mutation(
        "key-kept",
        "the activation key is wiped on confirmation (8)",
        "provisioner/transitions.py",
        "        rotate_wanted=False,\n        keys_sealed=keys_sealed,\n    )\n    leaving",
        "        rotate_wanted=False,\n    )\n    leaving",
        (f"{_SERVICE}::test_the_key_is_wiped_on_confirmation", _WORLDS),
    ),
    Mutation(
        "password-kept",
        "the minted password is wiped once it is confirmed or retired (8)",
        "provisioner/transitions.py",
        "    return evolve(credential, state=state, secret_sealed=None, due_on=None, attempts=0, settled_on=now)\n",
        "    return evolve(credential, state=state, due_on=None, attempts=0, settled_on=now)\n",
        (f"{_STORE}::test_nothing_of_the_minted_password_stays_after_confirmation", _WORLDS),
    ),
    Mutation(
        "renewal-retires-first",
        "the proved credential lives until the next one is confirmed (5)",
        "provisioner/lifecycle.py",
        "LIVE = frozenset((State.INSTALLED, State.OFFERED, State.CONFIRMED))\n",
        "LIVE = frozenset((State.INSTALLED, State.OFFERED))\n",
        (f"{_SERVICE}::test_rotation_keeps_the_old_credential_until_the_new_one_is_proved", _WORLDS),
    ),
    Mutation(
        "offers-live-for-ever",
        "an offer that nobody confirmed is retired (table of phases)",
        "provisioner/jobs.py",
        "            # The row is read after the lease took its `due_on`, so the confirm time itself decides.\n"
        "            if credential.confirm_before <= now:\n",
        "            if False:\n",
        (
            f"{_SERVICE}::test_an_unconfirmed_offer_is_retired_and_its_request_id_superseded",
            f"{_SERVICE}::test_a_renewal_that_fails_leaves_the_proved_credential",
        ),
    ),
    Mutation(
        "another-serial-each-time",
        "a repeat with the same key gets the same certificate (3)",
        "provisioner/certification.py",
        "            issued = self.authority.issue(ordered.order)\n",
        "            serial = (1 << 128 | int.from_bytes(self._entropy(16))).to_bytes(17).hex()\n"
        "            text = ordered.order.encode().replace(ordered.order.serial_hex, serial)\n"
        "            issued = self.authority.issue(type(ordered.order).decode(text))\n",
        (
            f"{_CERTIFICATES}::test_the_same_key_gets_the_same_certificate_whatever_the_request_id",
            f"{_CERTIFICATES}::test_twenty_claims_at_once_make_one_certificate",
            f"{_CERTIFICATES}::test_the_order_is_committed_before_anything_is_signed",
        ),
    ),
    Mutation(
        "retired-certificate-admitted",
        "a retired certificate is refused from the commit that retires it",
        "provisioner/device_logins.py",
        "found[1].state not in LIVE or names",
        "names",
        (
            f"{_CERTIFICATES}::test_a_revoked_certificate_is_refused_from_the_commit_on",
            f"{_CERTIFICATES}::test_another_key_retires_the_former_and_gets_its_own_certificate",
        ),
    ),
    Mutation(
        "any-certificate-renews",
        "a renewal is authenticated by the certificate in force of that very request",
        "provisioner/service.py",
        "        if found is None or found[1].request_id != dossier.request.id:\n",
        "        if found is None:\n",
        (f"{_CERTIFICATES}::test_only_a_certificate_in_force_renews",),
    ),
    Mutation(
        "one-key-for-two",
        "a key belongs to one device (4)",
        "provisioner/minting.py",
        "        if (used.device_broker, used.client_id) != (request.device_broker, request.client_id):\n",
        "        if used.device_broker != request.device_broker:\n",
        (f"{_CERTIFICATES}::test_a_key_of_another_device_is_refused",),
    ),
    Mutation(
        "tight-is-loose",
        "a tight credential works under its own client id alone",
        "provisioner/device_logins.py",
        "        if client_id == credential.client_id:\n            return True\n",
        "        return True\n",
        (
            f"{_SERVICE}::test_the_first_login_confirms",
            f"{_SERVICE}::test_a_loose_credential_serves_any_id_nobody_else_holds",
        ),
    ),
    Mutation(
        "stale-writes-win",
        "duplicates and two workers make one mint (3)",
        "provisioner/store/units.py",
        "        winners.append(wins)\n",
        "        winners.append(True)\n",
        (
            f"{_STORE}::test_a_stale_unit_changes_nothing",
            f"{_STORE}::test_units_at_once_are_judged_one_by_one",
        ),
    ),
    Mutation(
        "foreign-users-taken-out",
        "what is on its way in is not taken out as unknown (reconciliation)",
        "provisioner/reconcile.py",
        "_MAY_BE_THERE = LIVE | {State.MINTED}\n",
        "_MAY_BE_THERE = frozenset[State]()\n",
        ("tests/provisioner/test_reconcile.py::test_a_credential_on_its_way_in_is_left_alone",),
    ),
    Mutation(
        "password-wiped-with-the-offer",
        "the password is kept until it is confirmed or retired, for repeats (8)",
        "provisioner/transitions.py",
        "    return evolve(credential, state=state, due_on=credential.confirm_before, attempts=0)\n",
        "    return evolve(\n"
        "        credential, state=state, due_on=credential.confirm_before, attempts=0, secret_sealed=None\n"
        "    )\n",
        (f"{_SERVICE}::test_the_same_claim_gets_the_same_credential", _WORLDS),
    ),
    Mutation(
        "sealing-key-wiped",
        "K_seal stays on confirmation where the request may use it again (8)",
        "provisioner/keys.py",
        "    if request.reuse_key and keys.seal is not None:\n",
        "    if request.reuse_key and keys.seal is None:\n",
        (f"{_SERVICE}::test_rotation_keeps_the_old_credential_until_the_new_one_is_proved", _WORLDS),
    ),
    Mutation(
        "sent-is-stored",
        "a reply that was sent says nothing about the device (table of phases)",
        "provisioner/service.py",
        "        self._authentication.note_offered(claim, request.id)\n"
        "        return offer\n\n    async def _retire(\n",
        "        sent = await self._store.find_request(request.id)\n"
        "        if sent is not None and sent.credential is not None:\n"
        '            await self._confirm(sent.request, sent.credential, Note(now, "claim"))\n'
        "        return offer\n\n    async def _retire(\n",
        (f"{_SERVICE}::test_a_proved_claim_moves_the_confirm_time_at_most_a_day", _WORLDS),
    ),
    Mutation(
        "any-generation-confirms",
        "an ack is about its own generation (table of phases)",
        "provisioner/service.py",
        "        if newest is None or ack.generation != newest.generation:\n            if ack",
        "        if newest is None:\n            if ack",
        (f"{_SERVICE}::test_an_ack_of_what_was_never_offered_is_refused",),
    ),
    Mutation(
        "what-was-offered-is-what-is-there",
        "an ack is decided upon the ledger, whatever was known a moment ago (rule 1 of `offered`)",
        "provisioner/service.py",
        "                if offered is not None:\n                    continue\n",
        "",
        (f"{_SERVICE}::test_a_proved_ack_where_only_a_login_confirms_finds_out_what_changed",),
    ),
    Mutation(
        "renewal-withdraws-first",
        "a renewal takes nothing away before the next one is proved (5)",
        "provisioner/service.py",
        "            if request.phase is Phase.CONFIRMED:\n                return await self._mint",
        "            if request.phase is Phase.CONFIRMED:\n"
        "                credentials = await self._store.find_credentials(request.id)\n"
        "                saved, leaving = transitions.withdraw(request, credentials, now)\n"
        '                await self._commit(Unit(Note(now, "claim"), saved=(saved,), credentials=leaving))\n'
        "                return await self._mint",
        (f"{_SERVICE}::test_rotation_keeps_the_old_credential_until_the_new_one_is_proved", _WORLDS),
    ),
    Mutation(
        "retired-without-an-answer",
        "a credential is retired once the device broker said that it is gone (5)",
        "provisioner/jobs.py",
        "        except Unavailable:\n            gone = Revoke.LATER\n",
        "        except Unavailable:\n            gone = Revoke.CLOSED\n",
        (_WORLDS,),
    ),
    Mutation(
        "slower-than-its-lease",
        "whoever was slower than its lease changes nothing (jobs)",
        "provisioner/jobs.py",
        "            if all(other.generation != credential.generation for other in others):\n",
        "            if False:\n",
        (f"{_JOBS}::test_who_was_slower_than_its_lease_does_not_bring_a_retired_credential_back",),
    ),
    Mutation(
        "window-ends-the-hand-over",
        "an offer made inside the window may be offered again after it (9)",
        "provisioner/service.py",
        "        if credential.confirm_before <= now:\n            raise await",
        "        if credential.confirm_before <= now or policy.is_lapsed(request, now):\n            raise await",
        (f"{_SERVICE}::test_the_window_gates_the_start",),
    ),
    Mutation(
        "binding-forgotten",
        "a bound credential is admitted with its client id alone",
        "provisioner/device_logins.py",
        "        if credential.bound_to is not None:\n            return client_id == credential.bound_to\n",
        "",
        (f"{_LEARNING}::test_a_binding_holds_and_is_undone", f"{_LEARNING}::test_a_binding_outlives_a_renewal"),
    ),
    Mutation(
        "ticket-twice",
        "the address of an attachment works once",
        "provisioner/attachments.py",
        "            await self._ledger.use(nonce, expires_on, now)\n",
        "",
        (f"{_ATTACHMENTS}::test_a_large_one_is_fetched_once_with_the_address_of_the_offer",),
    ),
    Mutation(
        "ticket-of-any-offer",
        "the address of an attachment ends with its offer",
        "provisioner/attachments.py",
        "dossier.request.generation != generation or dossier.request.phase not in _ON_OFFER",
        "dossier.request.generation != generation",
        (f"{_ATTACHMENTS}::test_an_address_ends_with_its_offer",),
    ),
    Mutation(
        "policy-of-anybody",
        "an account uses its own policies and those above",
        "provisioner/policies.py",
        "        usable = await self._accounts.above(account_id)\n",
        "        usable = [*await self._accounts.above(account_id)]\n"
        "        usable += [one.account_id for one in await self._ledger.find()]\n",
        ("tests/broker/http/test_policy_routes.py::test_an_account_uses_its_policies_and_those_above",),
    ),
    Mutation(
        "device-of-anybody",
        "a device registered by others does not exist",
        "provisioner/dps.py",
        "if not found or (visible is not None and found[0].account_id not in visible):",
        "if not found:",
        ("tests/broker/http/test_enos.py::test_roles_and_accounts_hold_behind_this_door",),
    ),
)


class DoesNotApply(Exception):
    """What a mutation replaces is not there, or more than once."""


def mutated(mutation: Mutation) -> str:
    """Text of the mutated file. Raises `DoesNotApply`."""
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    if text.count(mutation.before) != 1:
        raise DoesNotApply(f"{mutation.name}: {mutation.file} has {text.count(mutation.before)} such places, not one")
    return text.replace(mutation.before, mutation.after)


def unnoticed(mutation: Mutation) -> list[str]:
    """Plant the bug in a copy of the tree; the named tests that do not fail on it."""
    text = mutated(mutation)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder)
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, tree / name)
        (tree / mutation.file).write_text(text, encoding="utf-8")
        return [test for test in mutation.tests if _run(tree, test) != _FAILED]


def _run(tree: Path, test: str) -> int:
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", test)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))}
    ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=300, check=False)
    return ended.returncode
