"""pynetdicom as a receiver, as its documentation has it: ``SINK PDU [key=value...]``; prints its port.

Its fast way for files is the chunked reception (``_config.STORE_RECV_CHUNKED_DATASET``), which writes to a temporary
file as the data comes; the handler then moves it to its name. The keys are ``folder``, and ``key``, ``cert`` for TLS.
"""

import os
import shutil
import ssl
import sys
import threading
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt

sink, pdu, *rest = sys.argv[1:]
options = dict(word.split("=", 1) for word in rest)
folder = Path(options.get("folder", "."))


def ignore(event: evt.Event) -> int:  # noqa: ARG001
    return 0


def save(event: evt.Event) -> int:
    shutil.move(event.dataset_path, folder / f"{event.request.AffectedSOPInstanceUID}.dcm")
    return 0


def sync(event: evt.Event) -> int:
    path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
    shutil.move(event.dataset_path, path)
    for each in (path, folder):
        descriptor = os.open(each, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return 0


_config.STORE_RECV_CHUNKED_DATASET = sink != "ignore"
context = None
if "key" in options:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options["cert"], options["key"])
ae = AE()
ae.supported_contexts = AllStoragePresentationContexts
ae.add_supported_context("1.2.840.10008.1.1", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
ae.maximum_associations = 20_000
ae.maximum_pdu_size = int(pdu)
handler = {"ignore": ignore, "save": save, "sync": sync}[sink]
server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handler)], ssl_context=context)
print(server.server_address[1], flush=True)
threading.Event().wait()
