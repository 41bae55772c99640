"""The DICOM network stack for asyncio."""
