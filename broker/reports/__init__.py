"""Reports that outlive a run: an HTML page for people, JUnit for CI.

Why drawn and written here, when matplotlib and templates exist? A report is made on build machines that install nothing
extra, is one file that opens offline years later, and needs two kinds of picture. The price is `charts`.

`verdict` (what was checked), `page` (HTML), `charts` (SVG in it), `junit`. Nothing here knows what was run.
"""
