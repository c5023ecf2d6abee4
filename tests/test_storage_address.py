"""Addresses of ``storage.path``: complete and without secrets, or refused."""

import pytest

from promptfleet.config import StorageConfig, build
from promptfleet.errors import ConfigError
from promptfleet.storage_address import SECRETS, tidy_path


@pytest.mark.parametrize(
    ("path", "tidy"),
    [
        ("results", "results"),
        ("./s3:/x", "./s3:/x"),
        ("a/s3:x@y:z", "a/s3:x@y:z"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a@b/c/", "s3://bucket/a@b/c"),
        ("s3://bucket/x?region=eu-central-1", "s3://bucket/x?region=eu-central-1"),
        ("s3://b/x?endpoint_override=minio:9000&scheme=http", "s3://b/x?endpoint_override=minio:9000&scheme=http"),
        ("gs://anonymous@bucket/x", "gs://anonymous@bucket/x"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("abfss://container@account.dfs.core.windows.net/", "abfss://container@account.dfs.core.windows.net"),
        ("abfss://account.dfs.core.windows.net/c/x", "abfss://account.dfs.core.windows.net/c/x"),
        ("abfs://c@a/x?credential_kind=environment", "abfs://c@a/x?credential_kind=environment"),
        ("hdfs://me@host:9000/x", "hdfs://me@host:9000/x"),
        ("hdfs://host/x", "hdfs://host/x"),
        ("hdfs:///x", "hdfs:///x"),
        ("file:///mnt/x/", "file:///mnt/x"),
    ],
)
def test_what_can_be_used(path, tidy):
    assert tidy_path(path) == tidy
    assert tidy_path(tidy) == tidy


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("s3://", "s3://BUCKET/FOLDER"),
        ("s3:///", "s3://BUCKET/FOLDER"),
        ("s3:///x", "s3://BUCKET/FOLDER"),
        ("s3:/x", "s3://BUCKET/FOLDER, or ./s3:/x for a folder"),
        ("s3:", "s3://BUCKET/FOLDER, or ./s3: for a folder"),
        ("s3://?region=x", "s3://BUCKET/FOLDER"),
        ("s3://$BUCKET/x", "s3://BUCKET/FOLDER"),
        ("s3://bucket//x", "s3://BUCKET/FOLDER"),
        ("s3://[x/y", "s3://BUCKET/FOLDER"),
        ("gs:///x", "gs://BUCKET/FOLDER"),
        ("gs:/x", "gs://BUCKET/FOLDER"),
        ("abfss://@account.dfs.core.windows.net/x", "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER"),
        ("abfss://container@/x", "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER"),
        ("abfss:///x", "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER"),
        ("hdfs://@host/x", "hdfs://HOST/FOLDER"),
        ("hdfs://", "hdfs://HOST/FOLDER"),
        ("hdfs:///", "hdfs://HOST/FOLDER"),
        ("file://", "file:///FOLDER"),
        ("file:///", "file:///FOLDER"),
        ("file://host/x", "file:///FOLDER"),
        ("file:/x", "file:///FOLDER"),
    ],
)
def test_an_address_without_a_part_is_refused_with_its_form(path, right):
    with pytest.raises(ConfigError) as caught:
        build(StorageConfig, {"path": path}, source="--set storage")
    assert f"storage: path: got {path!r}, " in str(caught.value)
    assert f"should be {right}" in str(caught.value)


SECRET = "Sec/ret+1"


@pytest.mark.parametrize(
    "path",
    [
        f"s3://AKIA:{SECRET}@bucket/x",
        f"S3://AKIA:{SECRET}@bucket/x",
        f"s3://AKIA%3A{SECRET}@bucket",
        "s3://Sec-ret+1@bucket/x",
        f"gs://token:{SECRET}@bucket/x",
        f"abfss://container:{SECRET}@account.dfs.core.windows.net/x",
        f"hdfs://me:{SECRET}@host/x",
        f"s3://bucket/x?secret_key={SECRET}",
        f"s3://bucket/x?region=a&access_key={SECRET}",
        f"s3://bucket/x?session_token={SECRET}",
        f"s3://bucket/x?endpoint_override=http://me:{SECRET}@minio:9000",
        f"abfs://c@a.dfs.core.windows.net/x?client_secret={SECRET}",
        f"abfs://c@a.dfs.core.windows.net/x?account_key={SECRET}",
        f"abfs://c@a.dfs.core.windows.net/x?sv=1&sig={SECRET}",
    ],
)
def test_secrets_are_refused(path):
    with pytest.raises(ConfigError) as caught:
        build(StorageConfig, {"path": path}, source="--set storage")
    assert str(caught.value) == f"--set storage: path: {SECRETS}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"--set s3://AKIA:{SECRET}@bucket: write key=value", "--set s3://***@bucket: write key=value"),
        (f"got 's3://b/x?region=a&secret_key={SECRET}', should", "got 's3://b/x?region=a&secret_key=***', should"),
        ("sqlite:////tmp/a?mode=ro and me@host:1", "sqlite:////tmp/a?mode=ro and me@host:1"),
    ],
)
def test_no_error_shows_a_secret(text, shown):
    assert str(ConfigError(text)) == shown
