"""Folders, buckets, Parquet and WebDataset through Ray Data, an extra: ``sruplift[ray]``.

Each image takes the same way as in ``sruplift upscale``: ``upscale.upscale_files``. Around it:

- ``places``: folders and buckets by their addresses, read and written through fsspec.
- ``sources``: what an input holds; its images one after the other.
- ``parts``: the report, a file of JSON lines for each partition, and what it says of earlier runs.
- ``planning``: what is left to do, in partitions. None of it needs Ray.
- ``work``: one partition, in whatever process.
- ``job``: the partitions through a pool of Ray's actors.
"""
