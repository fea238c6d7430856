"""The build: a recipe to Parquet shards and a manifest."""
