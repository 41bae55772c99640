"""pynetdicom as an archive of one study, as its documentation has it: ``PDU FOLDER DESTINATION-PORT``; prints its port.

Whatever is asked for, by C-GET or by C-MOVE to any destination, it sends the files of the folder.
"""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

pdu, folder, destination = sys.argv[1:]
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
GET, MOVE = "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.2.2"


def get(event: evt.Event) -> Iterator:  # noqa: ARG001
    paths = sorted(Path(folder).iterdir())
    yield len(paths)
    for path in paths:
        yield 0xFF00, dcmread(path)


def move(event: evt.Event) -> Iterator:
    yield "127.0.0.1", int(destination), {"contexts": [build_context(CT, EXPLICIT)]}
    yield from get(event)


ae = AE()
ae.add_supported_context(CT, EXPLICIT, scu_role=True, scp_role=True)
ae.add_supported_context(GET)
ae.add_supported_context(MOVE)
ae.maximum_pdu_size = int(pdu)
handlers = [(evt.EVT_C_GET, get), (evt.EVT_C_MOVE, move)]
server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
print(server.server_address[1], flush=True)
threading.Event().wait()
