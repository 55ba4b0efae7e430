"""`python -m tests.mutations [NAME …]`: plant bugs one by one, tell who noticed; exit code 1 if one stayed hidden."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from tests.mutations.planted import MUTATIONS, unnoticed


def main() -> None:
    wanted = set(sys.argv[1:])
    unknown = wanted - {mutation.name for mutation in MUTATIONS}
    if unknown:
        sys.exit(f"there is no mutation {', '.join(sorted(unknown))}")
    hidden = 0
    table = Table("planted", "breaks", "noticed by")
    for mutation in MUTATIONS:
        if wanted and mutation.name not in wanted:
            continue
        missed = unnoticed(mutation)
        hidden += bool(missed)
        noticed = [test.partition("::")[2] for test in mutation.tests if test not in missed]
        table.add_row(mutation.name, mutation.rule, ", ".join(noticed) or "nobody")
    Console().print(table)
    sys.exit(1 if hidden else 0)


if __name__ == "__main__":
    main()
