"""Operator API over HTTP, and the health and metrics beside it.

Why a gate in front of the routes: whoever forgets a dependency on one route opens it to everybody. Here nothing
opens by omission: `gate.py` asks for a token and bounds and checks the body before any route sees the message, and
names the few paths that answer without. The price is one more layer of ASGI and a body that is parsed twice (64 KiB
at most).

Why one frontier for errors: `problems.py` is the only place that turns an exception into an answer, so that no route
can leak a traceback or invent a code. The price is that a route cannot answer a failure its own way, which is the
point.

Read `app.py` first: it shows how the parts stand together. Pydantic models live here and no further in.
"""
