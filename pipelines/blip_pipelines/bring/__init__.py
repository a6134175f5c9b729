"""Pictures that are there already: webdataset shards, Parquet, lists of files, folders; rows as those of URL lists."""
