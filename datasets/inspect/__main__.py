"""The old spelling of `datasets.inspect_records`.

A folder without `__init__.py`, so that it does not shadow the standard library's
`inspect` when a file of this folder is run as a script.
"""

import sys

sys.exit("datasets.inspect is now called: python -m datasets.inspect_records RECORDS")
