"""The feature cache: what a frozen vision encoder makes of each picture, encoded once and read ever after.

`keys` says what a feature depends on, `store` holds features in memory-mapped shards, `filling` encodes what is
missing before a stage begins, `lookup` answers the data workers, `folders` is what the CLI shows and clears.
"""
