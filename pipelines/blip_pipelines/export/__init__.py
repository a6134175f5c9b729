"""What a round kept, written for those who train elsewhere: webdataset shards, a Hugging Face folder, lists."""
