"""Python imports this at its start when the folder is on PYTHONPATH: see network_guard.py."""

import network_guard

network_guard.install()
