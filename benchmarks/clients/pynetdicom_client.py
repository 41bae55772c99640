"""pynetdicom as a sender, its chunked way that does not decode: ``PORT FOLDER``; prints the seconds after its start."""

import sys
import time
from pathlib import Path

from pynetdicom import AE, _config

port, folder = sys.argv[1:]
_config.STORE_SEND_CHUNKED_DATASET = True
ae = AE()
ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
start = time.perf_counter()
association = ae.associate("127.0.0.1", int(port))
assert association.is_established
for path in sorted(Path(folder).iterdir()):
    assert association.send_c_store(path).Status == 0
association.release()
print(time.perf_counter() - start)
