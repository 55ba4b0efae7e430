"""Settings: what an operator may choose, checked before anything starts.

`settings.py` says which settings there are (frozen models), `values.py` how each kind of value is written, `sources.py`
where they come from (defaults, then a TOML file, then the environment, then the command line), `files.py` whether the
files they name are usable. `provisioner.toml` is the same list for people; a test keeps the two equal.

Why not pydantic-settings: it ignores an unknown `PROVISIONER_…` variable and reports a bad value without saying whether
the file or the environment brought it. Our merge is 60 lines, and every error can name its culprit. The price: no
dotenv files and no secrets folder. Secrets are no settings here; settings name files that hold them.

This room imports nothing of ours, and only the composition root (`broker/app.py`, `broker/wiring.py`) reads it: the
parts take plain values.
"""
