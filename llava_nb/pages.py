"""How a page that is written to a file begins: in UTF-8, and with nothing that could run.

Not covered: what stands in it (`panel/record.py`, `folder/sheet.py`).
"""

# The policy lets no script run and nothing be fetched, whatever text came from outside.
BEGINNING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""
