"""Batches as they are stored: deflated, or as older versions compressed them."""

from __future__ import annotations

import gzip

from spool.otlp.batch import Batch, Codec, merge


def packed(batch: Batch) -> Batch:
    return merge([batch], compress=True)


def packed_once(batch: Batch) -> Batch:
    """Pack as older versions did."""
    payload = gzip.compress(batch.payload, mtime=0)
    return Batch(payload, batch.spans, batch.raw_bytes, Codec.GZIP)
