"""pynetdicom as a receiver, as its documentation has it: ``SINK PDU [FOLDER]``; prints its port, ends with SIGTERM.

Its fast way for files is the chunked reception (``_config.STORE_RECV_CHUNKED_DATASET``), which writes to a temporary
file as the data comes; the handler then moves it to its name.
"""

import shutil
import sys
import threading
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt

sink, pdu, *rest = sys.argv[1:]
folder = Path(*rest)


def ignore(event: evt.Event) -> int:  # noqa: ARG001
    return 0


def save(event: evt.Event) -> int:
    shutil.move(event.dataset_path, folder / f"{event.request.AffectedSOPInstanceUID}.dcm")
    return 0


_config.STORE_RECV_CHUNKED_DATASET = sink == "save"
ae = AE()
ae.supported_contexts = AllStoragePresentationContexts
ae.add_supported_context("1.2.840.10008.1.1", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
ae.maximum_associations = 20_000
ae.maximum_pdu_size = int(pdu)
server = ae.start_server(
    ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, save if sink == "save" else ignore)]
)
print(server.server_address[1], flush=True)
threading.Event().wait()
