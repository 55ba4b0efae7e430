"""The promises that need many tries to be believed: seeds, kills, power cuts, hostile inputs, herds.

Each proof is one piece of code at three scales, chosen by `PROOF_SCALE`: `quick` goes along with `make test`, `ci` has
the figures of the targets (`make proof`), `soak` takes as long as one likes (`make soak`). What was tried and found is
recorded in `build/report/`, one file a proof; `python -m tests.proof` makes the report of them.
"""
