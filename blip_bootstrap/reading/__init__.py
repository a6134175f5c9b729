"""Files that users give, as records: text of any encoding, TSV, CSV, JSON, Parquet."""
