"""Bounds of the format. A reader refuses what lies beyond them before it allocates anything."""

CHUNK_BYTES = 8 << 20
"""What this writer cuts large files into."""
BUNDLE_BYTES = 4 << 20
"""Small pieces are gathered until a bundle has this much; the last piece may take it to twice that."""
FRAGMENT_BYTES_MAX = 256 << 10
"""A large file's head or tail below this goes into a bundle instead of a chunk of its own."""
PARTS = 32
PART_NUMBER_MAX = 63
"""32 planned parts; higher numbers hold what changed while the others were being written."""
FULL_BYTES_MIN = 256 << 20
"""A snapshot that sends at least this much has exactly `PARTS` parts."""

CHUNK_RAW_BYTES_MAX = 64 << 20
PART_BYTES_MAX = 1 << 43
PARTS_MAX = 1 << 16
CHUNKS_MAX = 1 << 22
ENTRIES_MAX = 1 << 25
SEGMENTS_MAX = 1 << 26
FILE_BYTES_MAX = 1 << 53
DEPTH_MAX = 512
MACHINE_BYTES_MAX = 63
SNAPSHOT_ID_BYTES = 25
NAME_BYTES_MAX = 255
TARGET_BYTES_MAX = 4095
XATTR_SET_BYTES_MAX = 1 << 20
PAGE_ROWS_MAX = 1 << 16
PAGE_RAW_BYTES_MAX = 64 << 20
MANIFEST_BYTES_MAX = 1 << 30
MANIFEST_RAW_BYTES_MAX = 8 << 30
MANIFEST_RATIO_MAX = 256
"""All pages together decompress to at most this many times the manifest's size, and a page more: so that a
small object cannot ask for much memory. Digests, which do not compress, keep real ones far below."""
INDEX_RATIO_MAX = 16
"""The same for a part's index, and a KiB more; a row of 113 bytes has a digest of 32 that no other row has."""
DOCUMENT_BYTES_MAX = 16 << 20
LEFT_OUT_MAX = 1000
"""How many left-out paths a metadata object names; beyond that it gives their count."""
